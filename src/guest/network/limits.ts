/** Bounds of the guest's network; each with its unit, its reasoning and what happens. */

/** How often held output is compared with its bound; beyond it a checkpoint is asked for. */
export const BOUND_CHECK_MS = 20;

/**
 * For QEMU to read what is on its way to the guest before that is stopped; it takes less than 1 ms.
 * Beyond, the PVM's edge is not exact and the input of the last 20 ms is repeated; the rest of an
 * SVM's input reaches it after the apply: harmless repetitions of what it knows.
 */
export const QUIESCE_TIMEOUT_MS = 5;

/**
 * SVM output that is kept until the comparison starts, a millisecond or two after its first frame.
 * Beyond, it is dropped and counted, and what it would have confirmed asks for a checkpoint.
 */
export const EARLY_OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

/** How often the network thread tells its figures to the main thread. */
export const STATS_INTERVAL_MS = 50;

/**
 * Output that waits to be confirmed, per NIC; beyond, QEMU's socket is not read until some has left.
 * A checkpoint has been asked for long before.
 */
export const COMPARE_HELD_BYTES_HARD = 64 * 1024 * 1024;

/**
 * Round trips of the replication link that a frame may wait for beside `compare-timeout`: a new
 * connection's first needs two, one for what the SVM says and one for `flowsKnown`.
 */
export const ROUND_TRIPS = 2;

/** A longer one, microseconds, counts as this much: a checkpoint comes sooner than such words. */
export const ROUND_TRIP_US_MAX = 1_000_000;
