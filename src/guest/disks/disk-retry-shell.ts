/**
 * What becomes of a guest whose disk failed and that nobody else can go on with: it stands still,
 * nothing is lost, and every few seconds QEMU repeats the request that failed (`cont` does that).
 * When there is room again, or the disk answers, the guest runs on as if nothing had been.
 */
import { describeError, type Logger } from '../../lib/index.js';
import { DISK_RETRY_MS } from './limits.js';

export interface DiskRetryOptions {
  /** The guest that waits; `resume` makes QEMU repeat what failed. */
  readonly guest: { resume(): Promise<void> };
  readonly log: Logger;
  /** Between two attempts, milliseconds. */
  readonly retryMs?: number;
}

export class DiskRetry {
  readonly #options: DiskRetryOptions;
  #problem: string | null = null;
  #failures = 0;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: DiskRetryOptions) {
    this.#options = options;
  }

  /** What the guest waits for, for the operator; null while it waits for nothing. */
  get problem(): string | null {
    return this.#problem;
  }

  /** A request failed, for the first time or again; the guest is paused. */
  failed(reason: string): void {
    if (this.#stopped) return;
    this.#failures += 1;
    if (this.#problem === null) {
      this.#options.log.error('The guest waits for its disk', { reason });
    }
    this.#problem = `The guest waits for its disk: ${reason} failed`;
    this.#after(() => this.#again());
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #again(): void {
    const failures = this.#failures;
    this.#options.guest.resume().then(
      () => {
        // QEMU may tell of the next failure before it answers.
        if (this.#failures === failures) this.#after(() => this.#mended());
      },
      (error) => {
        this.#options.log.warn('The guest can not be resumed', { reason: describeError(error) });
        this.#after(() => this.#again());
      },
    );
  }

  /** The repetition has not failed for as long as the next one would have been waited for. */
  #mended(): void {
    this.#problem = null;
    this.#options.log.info('The disk answers again, the guest runs on');
  }

  #after(work: () => void): void {
    clearTimeout(this.#timer);
    if (!this.#stopped) this.#timer = setTimeout(work, this.#options.retryMs ?? DISK_RETRY_MS);
  }
}
