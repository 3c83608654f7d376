/**
 * When precopy has sent enough: after each scan, what would the downtime be, is it getting any
 * better, and what to do when it is not.
 *
 * The downtime is estimated as the time for what the scan found and what is still under way, at the
 * rate that was measured, plus a fixed part. It gets better while a scan finds
 * a tenth less than the best so far. When it doesn't, the guest is slowed down step by step
 * (auto-converge); with nothing left to slow down, and some rounds later, it does not converge.
 */
import { PAGE_SIZE_BYTES } from '../lib/index.js';
import {
  FIXED_DOWNTIME_US,
  HOPELESS_ROUNDS,
  HOPELESS_US,
  SMALL_ROUND_PAGES,
  STALE_ROUNDS,
  STALE_US,
  THROTTLE_FIRST,
  THROTTLE_MAX,
  THROTTLE_STEP,
} from './limits.js';

export interface PaceOptions {
  readonly autoConverge: boolean;
  readonly downtimeLimitUs: number;
}

/** What one round did. */
export interface Round {
  readonly durationUs: number;
  readonly bytes: number;
  readonly pages: number;
  /** Found by the scan at its end. */
  readonly dirtyPages: number;
  /** Sent and not confirmed at its end. */
  readonly unconfirmedBytes: number;
}

export type PaceVerdict =
  | { readonly kind: 'pause' }
  | { readonly kind: 'round' }
  | { readonly kind: 'throttle'; readonly percent: number }
  /** Once each time that hope is lost. */
  | { readonly kind: 'hopeless' };

/** Below this a round says nothing of the rate: 1 MiB. */
const RATE_BYTES_MIN = 1024 * 1024;
const SECOND_US = 1_000_000;
/** A scan that finds this part of the best so far is progress. */
const BETTER = 0.9;

export class PrecopyPace {
  downtimeLimitUs: number;
  readonly #autoConverge: boolean;
  #rate: number | undefined;
  #bytesPerPage = PAGE_SIZE_BYTES;
  #bestPages = Number.POSITIVE_INFINITY;
  #staleRounds = 0;
  #staleUs = 0;
  #toldHopeless = false;
  #throttle = 0;
  #estimateUs: number | undefined;
  #dirtyRate = 0;

  constructor(options: PaceOptions) {
    this.#autoConverge = options.autoConverge;
    this.downtimeLimitUs = options.downtimeLimitUs;
  }

  /** Bytes each second, of the last round that says; undefined before. */
  get rate(): number | undefined {
    return this.#rate;
  }

  /** Pages that the guest writes each second, as the last scan saw it. */
  get dirtyRate(): number {
    return this.#dirtyRate;
  }

  /** Of the downtime, if it were now. */
  get estimateUs(): number | undefined {
    return this.#estimateUs;
  }

  get throttle(): number {
    return this.#throttle;
  }

  /** The last rounds brought nothing. */
  get stale(): boolean {
    return this.#staleRounds >= STALE_ROUNDS;
  }

  /** Microseconds to send so many pages at the measured rate; undefined before it is known. */
  timeFor(pages: number): number | undefined {
    if (this.#rate === undefined) return undefined;
    return (pages * this.#bytesPerPage * SECOND_US) / this.#rate;
  }

  /** The bandwidth is another one now: what was measured says nothing any more. */
  forgetRate(): void {
    this.#rate = undefined;
  }

  judge(round: Round): PaceVerdict {
    this.#measure(round);
    const { dirtyPages } = round;
    const bytes = dirtyPages * this.#bytesPerPage + round.unconfirmedBytes;
    const transferUs = this.#rate === undefined ? 0 : (bytes * SECOND_US) / this.#rate;
    this.#estimateUs = Math.round(FIXED_DOWNTIME_US + transferUs);
    // A limit below what pages have no part in must not keep a guest that writes nothing.
    const budgetUs = Math.max(this.downtimeLimitUs - FIXED_DOWNTIME_US, this.downtimeLimitUs / 4);
    const fits =
      this.#rate === undefined ? dirtyPages <= SMALL_ROUND_PAGES : transferUs <= budgetUs;
    if (fits) return { kind: 'pause' };
    if (dirtyPages < this.#bestPages * BETTER) {
      this.#bestPages = dirtyPages;
      this.#staleRounds = 0;
      this.#staleUs = 0;
      this.#toldHopeless = false;
      return { kind: 'round' };
    }
    this.#staleRounds += 1;
    this.#staleUs += round.durationUs;
    if (this.#autoConverge && this.#throttle < THROTTLE_MAX) {
      if (this.#staleRounds < STALE_ROUNDS || this.#staleUs < STALE_US) return { kind: 'round' };
      this.#throttle =
        this.#throttle === 0
          ? THROTTLE_FIRST
          : Math.min(THROTTLE_MAX, this.#throttle + THROTTLE_STEP);
      this.#staleRounds = 0;
      this.#staleUs = 0;
      this.#bestPages = dirtyPages;
      return { kind: 'throttle', percent: this.#throttle };
    }
    const hopeless = this.#staleRounds >= HOPELESS_ROUNDS && this.#staleUs >= HOPELESS_US;
    if (!hopeless || this.#toldHopeless) return { kind: 'round' };
    this.#toldHopeless = true;
    return { kind: 'hopeless' };
  }

  #measure(round: Round): void {
    const { durationUs, bytes, pages, dirtyPages } = round;
    if (durationUs <= 0) return;
    this.#dirtyRate = Math.round((dirtyPages * SECOND_US) / durationUs);
    if (pages > 0) this.#bytesPerPage = Math.max(1, bytes / pages);
    if (bytes >= RATE_BYTES_MIN || this.#rate === undefined) {
      if (bytes > 0) this.#rate = (bytes * SECOND_US) / durationUs;
    }
  }
}
