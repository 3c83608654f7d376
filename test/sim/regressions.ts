/**
 * Seeds that have found something once. A seed means another run as soon as what is drawn from it
 * changes; each bug of a core therefore has a unit test too, and when drawing changes, seeds for
 * this list are found anew with the bug put back.
 */
export const REGRESSIONS: readonly (readonly [seed: number, found: string])[] = [
  [46, 'InboundLog: a mark that came after its commit told nothing any more'],
  [58, 'PrimaryCore: a deadline in the past while the peer was suspected'],
  [943, 'SecondaryCore: an old state was promoted although its primary had come back'],
  [21516, 'FailureDetector: a peer was lost while its answer was under way'],
  [35669, 'SecondaryCore: in wait mode a planned take-over promoted when its primary fell silent'],
];
