/**
 * Seeds that have found something once. A seed means another run as soon as what is drawn from it
 * changes; each bug of a core therefore has a unit test too, and when drawing changes, seeds for
 * this list are found anew with the bug put back.
 */
export const REGRESSIONS: readonly (readonly [seed: number, found: string])[] = [];
