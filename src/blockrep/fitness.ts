/** Whether a guest's disks on the secondary can still take over: one answer for all of them. */
import { ColoError, type Logger } from '../lib/index.js';

export class Fitness {
  readonly #log: Logger;
  readonly #onUnfit: ((reason: string) => void) | undefined;
  #unfit: string | undefined;

  constructor(log: Logger, onUnfit?: (reason: string) => void) {
    this.#log = log;
    this.#onUnfit = onUnfit;
  }

  /** Why they can not; undefined while they can. */
  get unfit(): string | undefined {
    return this.#unfit;
  }

  /** Throws ColoError COLO_E_UNFIT. */
  assertFit(): void {
    if (this.#unfit !== undefined) throw new ColoError('COLO_E_UNFIT', this.#unfit);
  }

  /** For good. The first reason is kept and told once. */
  fail(reason: string): void {
    if (this.#unfit !== undefined) return;
    this.#unfit = reason;
    this.#log.error('The secondary disk is unfit', { reason });
    this.#onUnfit?.(reason);
  }
}
