/** What a primary waits for its guard with: see guest/speech-shell.ts. */
import type { SimSpeech } from './speech.js';

export class PrimarySpeech {
  readonly #speech: SimSpeech | undefined;
  /** The guard knows that the secondary is about to get a state; until then nothing is captured. */
  #protecting = false;
  #whenProtecting: (() => void)[] = [];
  /** Not a frame leaves any more, and the guard knows. */
  #silenced = true;
  #whenSilent: (() => void)[] = [];

  constructor(speech: SimSpeech | undefined) {
    this.#speech = speech;
  }

  silence(): void {
    if (this.#speech === undefined) return;
    this.#silenced = false;
    this.#speech.leave('The guest is given up', () => {
      this.#silenced = true;
      for (const run of this.#whenSilent.splice(0)) run();
    });
  }

  /** What promises that nothing leaves any more is said once nothing does. */
  onceSilent(run: () => void): void {
    if (this.#silenced) run();
    else this.#whenSilent.push(run);
  }

  protect(session: number | undefined): void {
    if (this.#speech === undefined || session === undefined) return;
    this.#protecting = true;
    this.#speech.protecting(session, () => {
      this.#protecting = false;
      for (const run of this.#whenProtecting.splice(0)) run();
    });
  }

  onceProtecting(run: () => void): void {
    if (this.#protecting) this.#whenProtecting.push(run);
    else run();
  }
}
