/** Bounds of what is kept on disk; each with its unit and what happens when it is reached. */

/** Bytes of an identity of a migration or of an image's version: drawn at random. Exact. */
export const ID_BYTES = 16;

/** Bytes of a page's digest: 128 bits. Exact. */
export const DIGEST_BYTES = 16;

/** Bytes of the salt of an image's digests. With it a page's hash needs no block more. Exact. */
export const SALT_BYTES = 16;

/** Bytes of a guest's name in a file: as in the disks' journal. A longer one is a bug, assertion. */
export const VM_BYTES_MAX = 255;

/** Pages of one batch of digests: at most 66 KiB on the wire. More is refused. */
export const DIGEST_BATCH_PAGES = 4096;

/** Bytes read, digested and written between two looks at the event loop: about a millisecond. */
export const STORE_CHUNK_BYTES = 1024 * 1024;
