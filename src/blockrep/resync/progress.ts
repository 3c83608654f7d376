/** How far a resynchronisation is, and how long it will take. */

export interface ResyncProgress {
  /** `waiting`: for what the target has changed; `following`: for what the guest still writes. */
  readonly phase: 'waiting' | 'comparing' | 'sending' | 'following';
  /** Clusters, counts. */
  readonly candidates: number;
  readonly compared: number;
  readonly differing: number;
  /** Of disk data; zeroes cost nothing. */
  readonly sentBytes: number;
  /** An upper bound of what is marked and not yet sent. */
  readonly leftBytes: number;
  /** Whole seconds, rounded up; undefined while nothing is known. */
  readonly remainingS: number | undefined;
}

/** Work in one unit, since `sinceUs`. */
export interface Pace {
  readonly done: number;
  readonly left: number;
  readonly sinceUs: number;
}

/**
 * Microseconds that the rest will take at the pace so far; undefined before there is one. `perUs`
 * is an upper bound of the pace.
 */
export function remainingUs(pace: Pace, nowUs: number, perUs?: number): number | undefined {
  const { done, left, sinceUs } = pace;
  if (left <= 0) return 0;
  const atLeast = perUs === undefined ? undefined : left / perUs;
  if (done <= 0 || nowUs <= sinceUs) return atLeast;
  return Math.max((left * (nowUs - sinceUs)) / done, atLeast ?? 0);
}
