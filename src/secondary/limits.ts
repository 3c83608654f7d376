/** Bounds of the secondary; each with its unit and reasoning. */

/**
 * Pages are moved from the staging area to the RAM file in pieces of at most this size. A power of
 * two, so that no piece crosses a boundary of the mapping's windows.
 */
export const APPLY_CHUNK_BYTES = 1024 * 1024;

/** Moved at an apply before the event loop gets a turn: some 10 ms, so that heartbeats go on. */
export const APPLY_BYTES_PER_TURN = 32 * 1024 * 1024;

/** From the load of a device state to the resume of the SVM, before it was ever measured. */
export const EXPECTED_LOAD_US = 8_000;

/** Digested before the event loop gets a turn: 1 MiB, a few milliseconds. */
export const DIGEST_PAGES_PER_TURN = 256;
