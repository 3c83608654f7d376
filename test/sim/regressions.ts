/**
 * Seeds that have found something once. A seed means another run as soon as what is drawn from it
 * changes; each bug of a core therefore has a unit test too, and when drawing changes, seeds for
 * this list are found anew with the bug put back.
 */
export const REGRESSIONS: readonly (readonly [seed: number, found: string])[] = [
  [326, 'PrimaryCore: a deadline in the past while the peer was suspected'],
  [452, 'the primary still held the output of one session when the next one reached its edge'],
  [1561, 'a primary that died in the instant in which it began to run alone'],
  [39404, 'SecondaryCore: in wait mode a planned take-over promoted when its primary fell silent'],
  [78134, 'FailureDetector: a peer was lost while its answer was under way'],
  [194013, 'SecondaryCore: an old state was promoted although its primary had come back'],
];
