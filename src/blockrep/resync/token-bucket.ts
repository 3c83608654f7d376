/**
 * A bandwidth limit: so many bytes per second, and what a short quiet time has saved up.
 *
 * A piece of more than what is saved waits until it is paid for; the next one starts from nothing.
 */
import { RESYNC_BURST_US } from '../limits.js';

export class TokenBucket {
  readonly #bytesPerUs: number;
  readonly #burstBytes: number;
  #tokens: number;
  #atUs: number;

  constructor(bytesPerSecond: number, nowUs: number) {
    this.#bytesPerUs = bytesPerSecond / 1e6;
    this.#burstBytes = this.#bytesPerUs * RESYNC_BURST_US;
    this.#tokens = this.#burstBytes;
    this.#atUs = nowUs;
  }

  /** Takes the bytes and returns how long to wait before they are sent, whole microseconds. */
  take(bytes: number, nowUs: number): number {
    const saved = this.#tokens + (nowUs - this.#atUs) * this.#bytesPerUs;
    this.#tokens = Math.min(saved, this.#burstBytes) - bytes;
    this.#atUs = nowUs;
    return this.#tokens >= 0 ? 0 : Math.ceil(-this.#tokens / this.#bytesPerUs);
  }
}
