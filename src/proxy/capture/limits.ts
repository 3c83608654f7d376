/** Every bound of captures: unit in the name, then why this much, then what happens. */

/**
 * Bytes of one captured frame: libpcap's own MAXIMUM_SNAPLEN, and what our files say their limit
 * is. Longer means that the file is broken (`ProtocolError`); nothing of that size is allocated.
 */
export const RECORD_BYTES_MAX = 262_144;

/**
 * A pcapng block that is read as a whole: the longest frame, its fields, and as much again for
 * options. Longer is a `ProtocolError`; blocks that are only skipped may have any length.
 */
export const BLOCK_BYTES_MAX = 2 * RECORD_BYTES_MAX;

/** Interfaces in one section of a pcapng file; more are a `ProtocolError`. */
export const INTERFACES_MAX = 1024;

/**
 * Captured but not yet written to the files. 16 MiB are 130 ms of 1 Gbit/s, longer than a disk's
 * usual stall; beyond, whole batches are left out of the capture and counted.
 */
export const CAPTURE_QUEUE_BYTES_MAX = 16 * 1024 * 1024;

/** One piece of a file on its way to the disk. */
export const CAPTURE_BLOCK_BYTES = 256 * 1024;

/** Checkpoint edges of one offline comparison: a day at ten a second. More end it with an error. */
export const EDGES_MAX = 1_000_000;

/**
 * Offline, frames of one side that lie within this time make one batch, as they would at one
 * wake-up of the agent, microseconds.
 */
export const BATCH_WINDOW_US = 1_000;

/** The same in bytes: one read from QEMU's socket. */
export const BATCH_BYTES_OFFLINE_MAX = 64 * 1024;

/** Mismatches kept with their bytes for the report; more are counted only. */
export const MISMATCHES_KEPT_MAX = 1_000;

/** Flows with a count of their own in the report; more have none. */
export const FLOWS_COUNTED_MAX = 10_000;
