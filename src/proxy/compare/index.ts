/**
 * The compare core: what both guests say leaves at once, the rest waits for a checkpoint. Read in
 * this order: comparer.ts (flows, epochs, what is held), flow.ts (what is remembered),
 * tcp-compare.ts with tcp-stream.ts and history.ts (streams), tcp-window.ts, datagrams.ts,
 * fragments.ts, mismatch.ts (explanations), limits.ts (bounds).
 */
export {
  type CheckpointReason,
  Comparer,
  type ComparerOptions,
  type ComparerSink,
  type Verdict,
} from './comparer.js';
export type { ComparerCounters } from './comparer-counters.js';
export { type CompareLimits, DEFAULT_COMPARE_LIMITS } from './limits.js';
export { formatFlow, formatMismatch, type Mismatch, type MismatchKind } from './mismatch.js';
