/** What a network tells of itself. */
import type { NicStats } from '../../proxy/index.js';

/** What the network has done since the start. */
export interface NetworkStats {
  readonly nics: readonly NicStats[];
  readonly compare: CompareStats;
}

/** What the comparison has done since the start. */
export interface CompareStats {
  readonly comparing: boolean;
  readonly flows: number;
  readonly confirmedFrames: number;
  readonly divergences: number;
  readonly timeouts: number;
  /** SVM output that belonged to no epoch that is compared. */
  readonly staleFrames: number;
}

export const NO_COMPARISON: CompareStats = {
  comparing: false,
  flows: 0,
  confirmedFrames: 0,
  divergences: 0,
  timeouts: 0,
  staleFrames: 0,
};
