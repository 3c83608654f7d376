/** What a comparer has counted. Pure. */

/** Since the comparer was made, except the first block, which is now. */
export interface ComparerCounters {
  readonly heldFrames: number;
  readonly heldBytes: number;
  readonly aheadFrames: number;
  readonly aheadBytes: number;
  readonly flows: number;

  readonly primaryFrames: number;
  readonly secondaryFrames: number;
  readonly releasedFrames: number;
  readonly releasedBytes: number;
  readonly openedFlows: number;
  readonly divergences: number;
  readonly timeouts: number;
  readonly bounds: number;
  /** Super-frames of which a part has left before the rest. */
  readonly splitFrames: number;
  readonly loweredWindows: number;
  readonly windowUpdates: number;
  /** SVM frames that were not compared: their flow was stopped, or a bound was reached. */
  readonly droppedSecondaryFrames: number;
}

export type MutableCounters = { -readonly [Name in keyof ComparerCounters]: number };

export function newCounters(): MutableCounters {
  return {
    heldFrames: 0,
    heldBytes: 0,
    aheadFrames: 0,
    aheadBytes: 0,
    flows: 0,
    primaryFrames: 0,
    secondaryFrames: 0,
    releasedFrames: 0,
    releasedBytes: 0,
    openedFlows: 0,
    divergences: 0,
    timeouts: 0,
    bounds: 0,
    splitFrames: 0,
    loweredWindows: 0,
    windowUpdates: 0,
    droppedSecondaryFrames: 0,
  };
}
