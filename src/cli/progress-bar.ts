/** A progress bar on a terminal, on stderr, for what takes longer than a moment. */
import { SingleBar } from 'cli-progress';
import { PROGRESS_DELAY_MS } from './limits.js';

const MIB = 1024 ** 2;

export class ProgressBar {
  readonly #what: string;
  readonly #startedAt = performance.now();
  #bar: SingleBar | undefined;

  constructor(what: string) {
    this.#what = what;
  }

  /** Shows how far it is, once it has taken long enough; nothing without a terminal. */
  update(doneBytes: number, totalBytes: number): void {
    if (!process.stderr.isTTY || performance.now() - this.#startedAt < PROGRESS_DELAY_MS) return;
    const total = Math.max(1, Math.ceil(totalBytes / MIB));
    if (this.#bar === undefined) {
      const format = `${this.#what} [{bar}] {percentage} %, {value}/{total} MiB, {eta_formatted}`;
      this.#bar = new SingleBar({ format, clearOnComplete: true, hideCursor: true });
      this.#bar.start(total, 0);
    }
    this.#bar.update(Math.min(total, Math.floor(doneBytes / MIB)));
  }

  /** Takes the bar away and gives the cursor back. Idempotent. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
