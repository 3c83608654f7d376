/**
 * Seeds that found something once. A seed means another run as soon as what is drawn from it
 * changes; each bug of a core therefore has a unit test too, and this list costs next to nothing.
 */
export const REGRESSIONS: readonly (readonly [seed: number, found: string])[] = [
  [4, 'the model went on with an epoch number that the core had skipped'],
  [53, 'a secondary that waits for its operator refuses a primary that lives'],
  [804, 'PrimaryCore: a deadline in the past while the peer was suspected'],
  [1195, 'PrimaryCore: the same, while a commit was due'],
  [14270, 'SecondaryCore: an old state was promoted although its primary had come back'],
  [29542, 'SecondaryCore: in wait mode a planned take-over promoted when its primary fell silent'],
  [29783, 'SecondaryCore: a suspected primary that asked for a session was not probed'],
  [1016, 'a primary that dies in the instant in which it begins to run alone'],
];
