/**
 * TCP sequence arithmetic: 32-bit numbers that wrap around, compared by their distance.
 *
 * Every value is an unsigned 32-bit integer held in a `number`. Two values can be ordered only if
 * they are less than 2^31 apart, which TCP's windows guarantee. Source: RFC 9293 section 3.4.
 */

/** `a` + `bytes`, wrapped; `bytes` may be negative. */
export function seqAdd(a: number, bytes: number): number {
  return (a + bytes) >>> 0;
}

/** How far `a` is ahead of `b`: from -2^31 to 2^31 - 1, negative when `a` is before `b`. */
export function seqDistance(a: number, b: number): number {
  return (a - b) | 0;
}

/** `a` is before `b`. */
export function seqBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}

/** The later of the two. */
export function seqMax(a: number, b: number): number {
  return ((a - b) | 0) < 0 ? b : a;
}

/** The earlier of the two. */
export function seqMin(a: number, b: number): number {
  return ((a - b) | 0) < 0 ? a : b;
}
