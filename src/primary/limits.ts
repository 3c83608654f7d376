/** Bounds and thresholds of the primary; each with its unit, its reasoning and what happens. */

/** Between two attempts to reach the peer. */
export const CONNECT_RETRY_US = 1_000_000;

/**
 * From the end of the pause to `committed`, and from there to `applied`. Far above any healthy
 * transaction; a secondary that hangs with a beating heart is dropped and the primary runs alone.
 */
export const COMMIT_TIMEOUT_US = 15_000_000;

/** A synchronisation round that leaves less than this is followed by the first checkpoint. */
export const SYNC_ENOUGH_BYTES = 16 * 1024 * 1024;

/** Rounds of the initial synchronisation; after them the first checkpoint takes what is left. */
export const SYNC_ROUNDS_MAX = 12;

/** A pre-send round of at most this many pages (1 MiB) is followed by the pause. */
export const PRESEND_ENOUGH_PAGES = 256;

/** Pre-send rounds of one checkpoint; after them the pause takes what is left. */
export const PRESEND_ROUNDS_MAX = 8;

/** For all four connections of a session; the peer's QEMU is started after that. */
export const CONNECT_TIMEOUT_MS = 3000;

/** For the peer to read a goodbye and close the session; then this agent ends all the same. */
export const GOODBYE_TIMEOUT_MS = 2000;

/** How often held output is compared with its bound. */
export const BOUND_CHECK_MS = 20;

/**
 * From a step that failed because QEMU had died to the news of its death; far more than it takes.
 */
export const QEMU_EXIT_MS = 1000;

/** RAM frames (half a MiB each) copied during a pause before the event loop gets a turn: 10 ms. */
export const FRAMES_PER_TURN = 64;

/** Longest epoch that `period = auto` chooses, for guests that always agree. */
export const ADAPTIVE_PERIOD_US_MAX = 10_000_000;

/**
 * For QEMU to read the LAN input that is on its way to the guest before it is stopped; it takes
 * less than 1 ms. Beyond, the edge is not exact and the input of the last 20 ms is repeated.
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
