/**
 * Durations as people write them: `200ms`, `1.5s`, `500us`. A bare number is refused, because half
 * of its readers would take it for seconds and the other half for milliseconds.
 */
import { ValueError } from './problem.js';

const UNIT_US = { us: 1, ms: 1_000, s: 1_000_000 } as const;
const GRAMMAR = /^(\d{1,12})(?:\.(\d{1,6}))?(us|ms|s)$/;

/** Whole microseconds of a duration text. Throws `ValueError`, also outside [minUs, maxUs]. */
export function parseDuration(text: string, bounds: { minUs: number; maxUs: number }): number {
  const range = `from ${formatDuration(bounds.minUs)} to ${formatDuration(bounds.maxUs)}`;
  const expected = `a duration ${range}`;
  const match = GRAMMAR.exec(text);
  if (match === null) {
    const bare = /^\d+(\.\d+)?$/.test(text);
    const advice = bare
      ? `add the unit, such as ${text.slice(0, 12)}ms`
      : 'write a number and us, ms or s, such as 200ms or 1.5s';
    throw new ValueError(text, expected, advice);
  }
  const [, whole = '', fraction = '', unit = ''] = match;
  const unitUs = UNIT_US[unit as keyof typeof UNIT_US];
  // The fraction is scaled as an integer: 1.1 * 1e6 is not whole in floating point.
  const fractionUs = (Number(fraction) * unitUs) / 10 ** fraction.length;
  const us = Number(whole) * unitUs + fractionUs;
  if (!Number.isInteger(us)) {
    throw new ValueError(text, expected, 'use whole microseconds');
  }
  if (us < bounds.minUs || us > bounds.maxUs) {
    throw new ValueError(text, expected, 'choose a value in that range');
  }
  return us;
}

/** The shortest exact text of whole microseconds; `parseDuration` gives the number back. */
export function formatDuration(us: number): string {
  if (us % UNIT_US.s === 0) return `${us / UNIT_US.s}s`;
  if (us % UNIT_US.ms === 0) return `${us / UNIT_US.ms}ms`;
  return `${us}us`;
}
