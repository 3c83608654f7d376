/** Bounds of the source's role; each with its unit and what happens when it is reached. */

/** For a connection to the destination, milliseconds. Hit: this attempt failed. */
export const CONNECT_TIMEOUT_MS = 5_000;

/** In a session that owes an answer, microseconds. Hit: the session is taken for lost. */
export const SILENCE_TIMEOUT_US = 10_000_000;

/** Of the disks' content that is not sent yet when the pages' turn comes, bytes. */
export const DISK_ENOUGH_BYTES = 16 * 1024 ** 2;

/** Passes over the disks before the pages' turn comes whatever is left. */
export const DISK_PASSES_MAX = 10;

/** Between two passes over the disks while the pages move, milliseconds. */
export const DISK_PASS_MS = 500;

/** For the destination to read the last message, milliseconds. */
export const GOODBYE_TIMEOUT_MS = 2_000;

/** Compression that brings nothing is not tried again for so long, microseconds. */
export const COMPRESSION_REST_US = 5_000_000;

/** Of batches that could be compressed one in so many is not, for comparison. */
export const PLAIN_EVERY = 16;

/** Confirmations before a rate with or without compression is judged; what then counts of older. */
export const RATE_SAMPLES_MIN = 8;
export const SAMPLE_KEPT = 0.9;

/** Between two words on how far keeping the guest's memory is, microseconds. */
export const KEEP_REPORT_US = 5_000_000;

/** Sent versions of pages that are remembered for deltas, bytes; less for a small guest. */
export const SENT_CACHE_BYTES = 128 * 1024 ** 2;

/** Between two signs of life while disks move and no page does, milliseconds. */
export const ALIVE_MS = 1_000;
