/** Every bound of the comparer: unit in the name, then why this much, then what happens. */
import { HELD_BYTES_SOFT, HELD_FRAMES_SOFT } from '../limits.js';

/** What the owner of a `Comparer` may choose; see the defaults below. */
export interface CompareLimits {
  readonly flowsMax: number;
  readonly heldBytesSoft: number;
  readonly heldFramesSoft: number;
  readonly aheadBytesMax: number;
  readonly aheadFramesMax: number;
  readonly historyBytes: number;
}

export const DEFAULT_COMPARE_LIMITS: CompareLimits = {
  /**
   * Flows remembered. Beyond, the least recently used one that is not needed in this epoch is
   * forgotten; if there is none, a checkpoint is asked for and new flows are held until then.
   */
  flowsMax: 65_536,
  /** Held for the SVM's word, as the gate's bounds for a commit. Beyond: a checkpoint is asked for. */
  heldBytesSoft: HELD_BYTES_SOFT,
  heldFramesSoft: HELD_FRAMES_SOFT,
  /**
   * SVM output that waits for the PVM's. The SVM may be as far ahead as the PVM may. Beyond: a
   * checkpoint is asked for, the frame is dropped, and its flow waits for that checkpoint.
   */
  aheadBytesMax: HELD_BYTES_SOFT,
  aheadFramesMax: HELD_FRAMES_SOFT,
  /**
   * Stream bytes that clients have already been sent, to judge retransmissions: 250 ms of a
   * 1 Gbit/s link, longer than a usual retransmission time-out. Beyond, the oldest are forgotten,
   * and a retransmission of them waits until the SVM retransmits too or a checkpoint is taken.
   */
  historyBytes: 32 * 1024 * 1024,
};

/** Pieces of history; 32 MiB of full segments are 23,000. Beyond, the oldest are forgotten. */
export const HISTORY_RECORDS = 65_536;

/** Bytes that one piece may grow to: a piece is forgotten as a whole. */
export const HISTORY_RECORD_BYTES_MAX = 64 * 1024;

/**
 * Pieces of one flow looked at for one retransmission: a flow of small segments with 4 MiB in
 * flight. Beyond, the bytes count as forgotten.
 */
export const HISTORY_WALK_MAX = 4096;

/** Opaque SVM frames that wait in one flow; beyond, the oldest is dropped (its twin times out). */
export const OPAQUE_WAITING_MAX = 64;

/**
 * How long an opaque SVM frame waits for its twin. ARP and its like are answered within
 * milliseconds; what the PVM did not say by then it will not say.
 */
export const OPAQUE_WAITING_US = 1_000_000;

/** Different resets of the SVM remembered in one flow; beyond, the oldest is forgotten. */
export const RESETS_MAX = 8;

/** Fragmented packets followed at once, each side; beyond, an older one loses its ports. */
export const FRAGMENTED_PACKETS_MAX = 256;

/** Flows looked at to find one that may be forgotten: what a new flow costs in a full table. */
export const EVICTION_TRIES_MAX = 16;

/** Two full segments: a window that grew by less is not worth a packet of ours. */
export const WINDOW_UPDATE_BYTES = 2920;

/** Bytes of each side shown around a difference. */
export const EXPLAINED_BYTES = 32;
