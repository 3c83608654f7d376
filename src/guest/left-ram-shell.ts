/**
 * The RAM of the guest that was here last, kept in memory until this host is its secondary again:
 * the memory file itself, which the next SVM is launched with. So nothing is copied, and no memory
 * is used that the guest did not have here before and the SVM will not need. What in it is still
 * right is found out then, by digests; nobody relies on it before.
 *
 * It ends with the agent, after `keep-ram-age`, and when another guest is to run here.
 */
import type { LeftRam } from '../emulator/index.js';
import { ColoError, countBytes, describeError, type Logger } from '../lib/index.js';
import type { Guest } from './guest.js';
import type { KeptRamPlace } from './kept-ram-shell.js';
import { TIMER_MS_MAX } from './limits.js';

/** What is needed of a configuration. */
export type LeftRamBounds = Pick<KeptRamPlace, 'keepRamBytes' | 'keepRamAgeUs'>;

export class LeftGuestRam {
  readonly #bounds: LeftRamBounds;
  readonly #log: Logger;
  #ram: LeftRam | undefined;
  #expiry: NodeJS.Timeout | undefined;

  constructor(bounds: LeftRamBounds, log: Logger) {
    this.#bounds = bounds;
    this.#log = log;
  }

  /**
   * Ends this guest's QEMU, and keeps its RAM if that is wanted and not too much; `what`: see
   * `Emulator.endKeepingRam`. The rest of the guest is still to be stopped. Never rejects.
   */
  async keep({ emulator }: Pick<Guest, 'emulator'>, what: 'guest' | 'file'): Promise<void> {
    const { keepRamBytes, keepRamAgeUs } = this.#bounds;
    if (keepRamBytes === 0) return;
    try {
      const ram = await emulator.endKeepingRam(what);
      if (ram === undefined) return;
      this.discard();
      const bytes = countBytes(ram.dataRanges());
      if (bytes > keepRamBytes) {
        ram.close();
        this.#log.info('The memory that the guest had here is not kept', { bytes, keepRamBytes });
        return;
      }
      this.#ram = ram;
      // Longer than a timer can be: it is looked at sooner, and only once.
      const ageMs = Math.min(keepRamAgeUs / 1000, TIMER_MS_MAX);
      this.#expiry = setTimeout(() => this.discard(), ageMs).unref();
      this.#log.info('The memory that the guest had here is kept', { bytes });
    } catch (error) {
      if (!(error instanceof ColoError)) throw error;
      this.#log.warn('The memory that the guest had here is lost', {
        reason: describeError(error),
      });
    }
  }

  /** For a guest of so many bytes; whoever takes it launches with it or closes it. */
  take(sizeBytes: number): LeftRam | undefined {
    const ram = this.#ram;
    if (ram?.sizeBytes !== sizeBytes) {
      this.discard();
      return undefined;
    }
    this.#forget();
    return ram;
  }

  /** Gives the memory back to the system. */
  discard(): void {
    this.#ram?.close();
    this.#forget();
  }

  #forget(): void {
    clearTimeout(this.#expiry);
    this.#ram = undefined;
  }
}
