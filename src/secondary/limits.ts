/** Bounds of the secondary; each with its unit and reasoning. */

/**
 * Pages are moved from the staging area to the RAM file in pieces of at most this size. A power of
 * two, so that no piece crosses a boundary of the mapping's windows.
 */
export const APPLY_CHUNK_BYTES = 1024 * 1024;

/** Moved at an apply before the event loop gets a turn: some 10 ms, so that heartbeats go on. */
export const APPLY_BYTES_PER_TURN = 32 * 1024 * 1024;

/**
 * For QEMU to read what was delivered to the SVM before it is stopped; it takes less than 1 ms.
 * Beyond, the rest reaches the guest after the apply: harmless repetitions of what it knows.
 */
export const QUIESCE_TIMEOUT_MS = 5;

/** How often the network thread tells its figures to the main thread. */
export const STATS_INTERVAL_MS = 50;

/** From the load of a device state to the resume of the SVM, before it was ever measured. */
export const EXPECTED_LOAD_US = 8_000;
