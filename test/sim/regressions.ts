/**
 * Seeds that have found something once. A seed means another run as soon as what is drawn from it
 * changes; each bug of a core therefore has a unit test too, and when drawing changes, seeds for
 * this list are found anew with the bug put back.
 */
export const REGRESSIONS: readonly (readonly [seed: number, found: string])[] = [
  [8, 'InboundLog: a mark that came after its commit told nothing any more'],
  [17, 'Epochs: a host that had been the secondary in between used them again'],
  [35, 'PrimaryCore: a deadline in the past while the peer was suspected'],
  [93, 'SecondaryCore: in wait mode a planned take-over promoted when its primary fell silent'],
  [1990, 'PrimaryRole: who left said that it had nothing, and the secondary let go of its state'],
  [
    2781,
    'RoleMachine: a peer that had said that it holds a state fell silent, and the guest booted',
  ],
];

/** The same, of runs with a witness. */
export const WITNESS_REGRESSIONS: readonly (readonly [seed: number, found: string])[] = [
  [19, 'SpeechPermit: who gave its grant back did not ask again before it would have renewed it'],
  [
    17,
    'Speech: a standby whose guest had executed passed for as new as its primary after a restart',
  ],
  [532, 'RoleMachine: a host with the grant waited for a peer that the witness had fenced'],
  [406, 'Speech: a guard that stood still kept its node silent, and the peer waiting, for ever'],
];
