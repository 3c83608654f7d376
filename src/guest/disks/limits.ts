/** Bounds of the disk thread; each with its unit, its reasoning and what happens. */

/** Clusters of 64 KiB that are read and sent before the disk's dirty bitmap is asked again. */
export const DISK_SYNC_CLUSTERS = 64;

/**
 * Disk writes of one epoch after which a checkpoint is asked for: half of what the secondary
 * buffers in memory.
 */
export const EPOCH_DISK_BYTES = 32 * 1024 * 1024;

/** How often the disk writes of the epoch are compared with their bound. */
export const BOUND_CHECK_MS = 20;

/** Disk messages (at most 1 MiB each) that wait to be carried out; then the link is paused. */
export const DISK_WORK_MESSAGES = 64;

/** How often the main thread looks whether the disk thread has been heard, milliseconds. */
export const THREAD_CHECK_MS = 1000;

/**
 * So many looks in a row without a word, and the disk thread hangs in a disk that does not answer:
 * it tells its figures twenty times a second. Its owner is told; it may go on later.
 */
export const THREAD_CHECKS_MISSED_MAX = 10;

/** For the disk thread to answer what QEMU asked for and to close the images; then it is left. */
export const STOP_MS_MAX = 10_000;

/** From a disk request that failed to its repetition, while nobody else has the guest. */
export const DISK_RETRY_MS = 3000;

/** How often the disk thread tells its figures to the main thread. */
export const STATS_INTERVAL_MS = 50;

/**
 * Clusters of 64 KiB that a repair adds to one pause: 16 MiB are read in some milliseconds. The
 * rest of it goes with later checkpoints.
 */
export const REPAIR_CLUSTERS_PER_EDGE = 256;
