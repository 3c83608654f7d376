/**
 * What a person sees of a run: one line an event with the seconds since the start, and a bar while
 * the hosts synchronise. Quiet with `--json`.
 */
import { SingleBar } from 'cli-progress';
import { nowUs } from '../clients/clock.js';

const MIB = 1 << 20;

export class Timeline {
  readonly #quiet: boolean;
  readonly #startUs = nowUs();
  #bar: SingleBar | undefined;

  constructor(quiet: boolean) {
    this.#quiet = quiet;
  }

  /** Prints an event; `atUs` is CLOCK_MONOTONIC. */
  tell(text: string, atUs = nowUs()): void {
    if (this.#quiet) return;
    this.endProgress();
    const seconds = ((atUs - this.#startUs) / 1e6).toFixed(2).padStart(6);
    process.stdout.write(`t=+${seconds} s  ${text}\n`);
  }

  /** Shows how much of a synchronisation is done; only on a terminal. */
  progress(doneBytes: number, totalBytes: number): void {
    if (this.#quiet || !process.stderr.isTTY) return;
    const total = Math.max(1, Math.round(totalBytes / MIB));
    if (this.#bar === undefined) {
      this.#bar = new SingleBar({
        format: '  synchronising [{bar}] {value}/{total} MiB',
        clearOnComplete: true,
        hideCursor: true,
      });
      this.#bar.start(total, 0);
    }
    this.#bar.setTotal(total);
    this.#bar.update(Math.min(total, Math.round(doneBytes / MIB)));
  }

  endProgress(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
