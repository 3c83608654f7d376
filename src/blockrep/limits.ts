/** Every bound of the disk path: unit, why this value, and what happens when it is reached. */

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/**
 * Largest read or write payload of one NBD request, bytes. It is the figure NBD's proto.md
 * recommends and QEMU's own client limit. A longer read is answered EINVAL; a longer write ends
 * the connection, because its payload would have to be swallowed.
 */
export const NBD_PAYLOAD_BYTES_MAX = 32 * MIB;

/** Longest export name, bytes (proto.md allows 4096 at most). A longer one ends the connection. */
export const NBD_NAME_BYTES_MAX = 4096;

/**
 * Longest option data, bytes: the longest name and the longest query, and generous lists beside
 * them. A longer option ends the connection.
 */
export const NBD_OPTION_BYTES_MAX = 16 * KIB;

/** Options one client may send before it must choose an export; more end the connection. */
export const NBD_OPTIONS_MAX = 64;

/** Information requests read from one GO or INFO; more are answered with an error. */
export const NBD_INFO_REQUESTS_MAX = 32;

/** Queries read from one LIST or SET_META_CONTEXT; more are answered with an error. */
export const NBD_META_QUERIES_MAX = 32;

/**
 * Data ranges in the answer to one block status request: 2 KiB of reply, and the searches for holes
 * do not keep others waiting. A client asks again for the rest.
 */
export const NBD_EXTENTS_MAX = 128;

/** A client that has not chosen an export by then is dropped, milliseconds. */
export const NBD_NEGOTIATION_MS_MAX = 10_000;

/** A client that does not take its last replies by then is cut off, milliseconds. */
export const NBD_CLOSE_MS_MAX = 2_000;

/** Connections of one server: one per disk and some for tools. Further ones are closed at once. */
export const NBD_CONNECTIONS_MAX = 16;

/** Requests of one connection in progress (QEMU sends at most 16 or 32). More: reading stops. */
export const NBD_REQUESTS_IN_FLIGHT_MAX = 128;

/** Payload bytes of one connection in progress. More: reading stops until some are answered. */
export const NBD_BYTES_IN_FLIGHT_MAX = 64 * MIB;

/** Reply bytes that the client has not taken yet, per connection. More: reading stops. */
export const NBD_REPLY_BYTES_MAX = 64 * MIB;

/**
 * Replies on their way to a client that reads them slower than they are made: two of 1 MiB, so that
 * neither waits for the other at every 200 KiB of it. A wish; the kernel may give less.
 */
export const NBD_SEND_BUFFER_BYTES = 2 * MIB;

/**
 * Reads from so many bytes on are sent from the page cache where they can be; for less two more
 * system calls cost more than the copies.
 */
export const NBD_SEND_CACHED_BYTES_MIN = 64 * KIB;

/** Of longer ones the socket takes only a part at once, and the rest would keep others waiting. */
export const NBD_SEND_CACHED_BYTES_MAX = 4 * MIB;

/** Pieces of guest RAM that one write refers to, a count: as many as one system call takes. */
export const NBD_REFERENCES_MAX = 1024;

/**
 * A part of a write that is carried out before the rest has come: less is not worth a request, and
 * a read of the socket brings up to 200 KiB. Parts end where blocks of the image's file system do.
 */
export const NBD_PART_BYTES_MIN = 128 * KIB;
export const NBD_PART_ALIGNMENT = 4 * KIB;

/** The piece of memory that small requests arrive in, bytes; a full one is followed by the next. */
export const NBD_RECEIVE_BYTES = 256 * KIB;

/**
 * One read of the socket into it, bytes: a queue of sixteen 4 KiB writes. What comes of a large
 * write with its head must be copied to its payload; the rest is read right there.
 */
export const NBD_RECEIVE_ONCE_BYTES = 64 * KIB;

/** Memory for payloads that a connection keeps for the next ones, bytes; more is left to the GC. */
export const NBD_KEPT_BYTES_MAX = 16 * MIB;

/**
 * Image requests of at most this many bytes are done on the calling thread where that is a copy
 * from or to the page cache: 4 KiB take 2 us and 1 MiB 200, the way to another thread and back 20
 * to 100, and the more the less idle the processors are. Larger ones would delay the others.
 */
export const IMAGE_INLINE_BYTES_MAX = 1 * MIB;

/**
 * For the layers below to carry out one request, milliseconds. Healthy disks need a thousandth, and
 * a busy one some seconds. Then the request fails, and every other one until it is done after all.
 */
export const DISK_REQUEST_MS_MAX = 30_000;

/** Sectors are 512 bytes; an image whose size is no multiple of it is refused. */
export const SECTOR_BYTES = 512;

/** One piece of zeroes written where the file system can not punch holes, bytes. */
export const ZERO_CHUNK_BYTES = 1 * MIB;

/** Unit of the block dirty bitmap, bytes: 1 TiB of disk costs 2 MiB of bitmap. */
export const DIRTY_CLUSTER_BYTES = 64 * KIB;

/**
 * Data bytes of one message of the disk channel: half of the frame layer's 2 MiB, so that headers
 * never matter. Longer writes are split; a longer message ends the link.
 */
export const DISK_DATA_BYTES_MAX = 1 * MIB;

/** Disks of one guest that the disk channel can name; a higher number ends the link. */
export const DISKS_MAX = 64;

/** Unit of the overlay, bytes: a guest's page and file system block. */
export const OVERLAY_BLOCK_BYTES = 4 * KIB;

/** Pieces in which the overlay's and the epoch buffer's memory is allocated, bytes. */
export const SLAB_BYTES = 1 * MIB;

/** What each buffered operation costs beside its data, bytes: the object that describes it. */
export const OPERATION_OVERHEAD_BYTES = 128;

/**
 * Bounds of a guest's disks on the secondary: the overlay's for each disk, the others for all
 * together. Tests choose smaller ones.
 */
export interface SecondaryBounds {
  /** Overlay data kept in memory, bytes. More spills to a file. */
  readonly overlayMemoryBytes: number;
  /** Overlay data in the spill file, bytes. More fails the SVM's write: the secondary is unfit. */
  readonly overlaySpillBytes: number;
  /** Staged data kept in memory, bytes, with the overhead above. More is in the journal only. */
  readonly bufferMemoryBytes: number;
  /** Staged data that is in the journal only, bytes. More: the secondary is unfit. */
  readonly bufferSpillBytes: number;
  /** Staged operations, a count: their descriptions stay in memory. More: unfit. */
  readonly bufferOperations: number;
  /** Overlay or staged bytes from which a checkpoint is asked for: it empties both. */
  readonly softBytes: number;
  /**
   * Preallocated size of each of the journal's two files, bytes. An epoch that begins beyond half
   * of it goes to the other file; a larger epoch makes its file grow, up to the bounds above.
   */
  readonly journalSegmentBytes: number;
  /**
   * Data of a synchronisation that is written to an image without a sync, bytes. More: it is synced
   * before more is taken, so that the sync before the first commit does not outlast its deadline.
   */
  readonly unsyncedBytes: number;
  /**
   * From a write of a synchronisation until the images are synced behind it, milliseconds: what is
   * left for the sync before the first commit, during which the guest stands still, is little.
   */
  readonly syncAfterMs: number;
}

/**
 * 64 MiB each is several epochs of a busy guest; the soft bound leaves a checkpoint's time before
 * spilling starts. 16 GiB of spill is more than any link carries in an epoch.
 */
export const SECONDARY_BOUNDS: SecondaryBounds = {
  overlayMemoryBytes: 64 * MIB,
  overlaySpillBytes: 16 * GIB,
  bufferMemoryBytes: 64 * MIB,
  bufferSpillBytes: 16 * GIB,
  bufferOperations: 1_000_000,
  softBytes: 48 * MIB,
  journalSegmentBytes: 64 * MIB,
  unsyncedBytes: 256 * MIB,
  syncAfterMs: 50,
};

/** Writes to the image in progress while an epoch is applied. More threads than libuv has idle. */
export const APPLY_CONCURRENCY = 4;

/** Buffers in one write to the image while an epoch is applied; below IOV_MAX (1024). */
export const APPLY_PARTS_MAX = 256;

/** Piece in which the overlay is merged and images are read for a digest, bytes. */
export const COPY_CHUNK_BYTES = 1 * MIB;

/** A storage daemon that has not begun to serve a qcow2 image by then is given up, milliseconds. */
export const QCOW2_START_MS_MAX = 10_000;

/** A storage daemon that has not ended by then after SIGTERM is killed, milliseconds. */
export const QCOW2_STOP_MS_MAX = 10_000;

/** What is kept of the words of a storage daemon or of qemu-img, bytes: the last ones. */
export const QCOW2_OUTPUT_BYTES_MAX = 16 * KIB;

/** Unit of the journal's layout, bytes: what a disk writes at least, so nothing durable is torn. */
export const JOURNAL_BLOCK_BYTES = 4 * KIB;

/** Name of the guest in a journal, bytes. A longer one is refused at the opening. */
export const JOURNAL_VM_BYTES_MAX = 1 * KIB;

/** Data waiting to be written to the journal, bytes. More: the disk link is read no further. */
export const JOURNAL_QUEUE_BYTES = 8 * MIB;

/** Data of one write to the journal, bytes; the next write takes the rest. */
export const JOURNAL_BATCH_BYTES = 4 * MIB;

/** Records of one write to the journal: two buffers each, below IOV_MAX (1024). */
export const JOURNAL_BATCH_RECORDS = 500;

/** Piece in which a journal is read at a start, bytes. */
export const JOURNAL_WINDOW_BYTES = 1 * MIB;

/**
 * Generations that an image's record remembers, a count: years of failovers. The oldest is
 * forgotten; a peer that has not been seen for longer is a stranger, and an operator decides.
 */
export const GENERATION_HISTORY_MAX = 256;

/**
 * Generations told to a peer, a count: with 12 disks and the longest names they are 160 KiB, and a
 * hello may have 256. Of a peer whose common past is older an operator decides.
 */
export const GENERATIONS_TOLD_MAX = 32;

/** Size of a generation file, bytes; the longest history takes a third. A larger one is damaged. */
export const GENERATION_FILE_BYTES_MAX = 256 * KIB;

/**
 * Largest disk with a change map, bytes: its file is 256 MiB then, and one view of memory may
 * have 1 GiB. Of a larger disk all clusters are compared in every resynchronisation.
 */
export const CHANGE_MAP_DISK_BYTES_MAX = 64 * 1024 * GIB;

/** Runs of clusters in one `changed` message; more come in further messages, or end the link. */
export const CHANGED_RUNS_MAX = 4096;

/** Clusters in one request of digests: 16 MiB of disk, answered with 4 KiB. More end the link. */
export const DIGEST_REQUEST_CLUSTERS_MAX = 256;

/**
 * Clusters of one disk whose digests are asked for and not yet compared: 64 MiB. More wait at the
 * source; a target that is asked for more ends the link.
 */
export const DIGEST_CLUSTERS_IN_FLIGHT_MAX = 1024;

/** Bytes of a cluster's digest: enough against chance, and nobody gains by a collision. */
export const DIGEST_BYTES = 16;

/**
 * A peer that lives and answers no request of digests by then breaks the session, milliseconds:
 * a slow disk reads 16 MiB in a second or two.
 */
export const DIGEST_ANSWER_MS_MAX = 60_000;

/**
 * Clusters read and digested at once: 256 KiB take about a millisecond, in which the event loop
 * does nothing for the guest.
 */
export const DIGEST_READ_CLUSTERS = 4;

/** Dirty clusters taken at once by a resynchronisation: 4 MiB are read before they are sent. */
export const RESYNC_TAKE_CLUSTERS = 64;

/** What the bandwidth limit lets through at once after a quiet time, microseconds of its rate. */
export const RESYNC_BURST_US = 100_000;

/**
 * Passes of a verification, a count: clusters that are written during every one of them are
 * reported as not compared.
 */
export const VERIFY_PASSES_MAX = 8;

/** Differing ranges that a verification lists, a count; the rest is only counted and repaired. */
export const VERIFY_RANGES_MAX = 1024;

/** Of a shared device, to tell it from another one: a count, at least 2. */
export const PROOF_SAMPLES = 16;

/** Equal ones that make it the same: the guest may write to some between the two looks. */
export const PROOF_SAMPLES_EQUAL_MIN = 12;

/** Bytes of a sample. */
export const PROOF_SAMPLE_BYTES = 4096;

/**
 * For the other host to close a shared image that this one takes back, milliseconds. Hit: the guest
 * does not go on, as somebody else has its disk.
 */
export const SHARED_LOCK_MS = 10_000;

/** Between two looks at its lock, of which no event is told, milliseconds. */
export const SHARED_LOCK_RETRY_MS = 20;
