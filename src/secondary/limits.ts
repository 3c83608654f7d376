/** Bounds of the secondary; each with its unit and reasoning. */

/**
 * Pages are moved from the staging area to the RAM file in pieces of at most this size. A power of
 * two, so that no piece crosses a boundary of the mapping's windows.
 */
export const APPLY_CHUNK_BYTES = 1024 * 1024;

/** Disk messages (at most 1 MiB each) that wait to be carried out; then the link is paused. */
export const DISK_WORK_MESSAGES = 64;
