/** Bounds of page batches; each with its unit and what happens when it is reached. */

/** Bytes of page data in one batch, uncompressed: half a MiB never delays a demanded page for long.
 * Reaching it starts the next batch; a header that claims more is refused. */
export const BATCH_DATA_BYTES = 512 * 1024;

/** Pages, zero pages included, of one batch: 256 MiB of zeroes. As above. */
export const BATCH_PAGES = 65_536;

/** Runs of one batch: a table of 36 KiB. As above. */
export const BATCH_RUNS = 4096;

/** Deltas of one batch: the destination holds their results, 4 MiB, until all are checked. */
export const BATCH_DELTAS = 1024;

/** Bytes of one delta's tokens: half a page. A longer one is sent as a raw page. */
export const DELTA_BYTES_MAX = 2048;

/** Pages of one guest's RAM, 8 TiB: indices stay 32-bit integers. More is refused. */
export const RAM_PAGES_MAX = 2 ** 31;

/** Bytes of sent versions that an encoder remembers; 0 remembers none. A bug, assertion. */
export const SENT_CACHE_BYTES_MAX = 2 ** 30;
