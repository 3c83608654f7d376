/**
 * How long a service was away, seen from one client. In: the times of the client's successes. Out:
 * the longest time between two successive ones, and each gap worth telling as it ends.
 *
 * Idea: an outage is what a client can notice, so it is not measured from the fault but between two
 * answers. The time from the last answer to the end of the load counts too (a service that never
 * came back has no later answer); the time up to the first answer does not, unless there is none:
 * connecting and warming up is not an outage.
 */

/** A time without success, both ends CLOCK_MONOTONIC in microseconds. */
export interface Gap {
  readonly fromUs: number;
  readonly toUs: number;
}

/** What a finished track knows; `longest` is undefined only if the load had no length. */
export interface ContinuityReport {
  readonly successes: number;
  readonly longest: Gap | undefined;
}

/** One client's successes in the order of their times. */
export class Continuity {
  readonly #tellAboveUs: number;
  #startUs: number | undefined;
  #lastUs: number | undefined;
  #longest: Gap | undefined;
  #successes = 0;

  constructor(tellAboveUs: number) {
    this.#tellAboveUs = tellAboveUs;
  }

  /** The load begins. */
  start(atUs: number): void {
    this.#startUs = atUs;
  }

  /** The warm-up is over: forgets earlier gaps, and counts the one that is open from now on. */
  restart(atUs: number): void {
    this.#startUs = atUs;
    if (this.#lastUs !== undefined) this.#lastUs = atUs;
    this.#longest = undefined;
  }

  /** A success; returns the gap that it ends if that is longer than the constructor's threshold. */
  success(atUs: number): Gap | undefined {
    this.#successes++;
    const lastUs = this.#lastUs;
    this.#lastUs = atUs;
    if (lastUs === undefined) return undefined;
    const gap = { fromUs: lastUs, toUs: atUs };
    this.#keepLongest(gap);
    return lengthUs(gap) > this.#tellAboveUs ? gap : undefined;
  }

  /** The load ended: what is still open is a gap up to `atUs`. */
  finish(atUs: number): ContinuityReport {
    const fromUs = this.#lastUs ?? this.#startUs;
    if (fromUs !== undefined && atUs > fromUs) this.#keepLongest({ fromUs, toUs: atUs });
    return { successes: this.#successes, longest: this.#longest };
  }

  #keepLongest(gap: Gap): void {
    if (this.#longest === undefined || lengthUs(gap) > lengthUs(this.#longest)) this.#longest = gap;
  }
}

/** Length of a gap in microseconds. */
export function lengthUs(gap: Gap): number {
  return gap.toUs - gap.fromUs;
}
