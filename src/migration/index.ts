/**
 * Moving a guest between hosts: how its pages are coded and what of them is kept on disk.
 *
 * Source: RAM -> pages/page-encoder.ts (sent-pages.ts, page-delta.ts) -> pages/batch-compression.ts
 * where compression-advisor.ts says so -> pages/page-batch.ts -> the link. Destination: the link ->
 * pages/page-decoder.ts -> RAM. Which pages are missing: pages/page-bitmap.ts, on the wire
 * bitmap-wire.ts.
 *
 * On disk: what the destination of a postcopy lacks when the network does not come back,
 * store/backup-file-shell.ts (backup-format.ts); what a host keeps of a guest that left it,
 * store/ram-image-store-shell.ts (ram-image-shell.ts, ram-image-format.ts). What such an image
 * saves: page-digest-shell.ts -> digest-wire.ts -> reuse.ts.
 *
 * Held here: a batch is written as a whole or not at all, and nothing of it before it was checked;
 * of a file nothing is used before all of it was verified, or of an image each page.
 */
export { codeBatch, compressBatch } from './pages/batch-compression.js';
export { BitmapAssembler, encodeBitmap } from './pages/bitmap-wire.js';
export {
  type CompressionAdvice,
  CompressionAdvisor,
  type CompressionAdvisorOptions,
  type CompressionFigures,
} from './pages/compression-advisor.js';
export {
  BATCH_BYTES_MAX,
  decodeBatch,
  encodeBatch,
  type PageBatch,
  type PageRun,
} from './pages/page-batch.js';
export { PageBitmap } from './pages/page-bitmap.js';
export { type AppliedBatch, PageDecoder, type PageTarget } from './pages/page-decoder.js';
export {
  PageEncoder,
  type PageEncoderOptions,
  type PageEncoderStats,
  type PageSource,
} from './pages/page-encoder.js';
export {
  BackupFile,
  openBackup,
  type StoreProgress,
  type WriteBackupOptions,
  writeBackup,
} from './store/backup-file-shell.js';
export { type DigestBatch, DigestDecoder, encodeDigests } from './store/digest-wire.js';
export { BackupError, RamImageError } from './store/errors.js';
export { digestPages } from './store/page-digest-shell.js';
export type { ImageHeader } from './store/ram-image-format.js';
export { type DepartedRam, RamImage, type SaveImageOptions } from './store/ram-image-shell.js';
export {
  RamImageStore,
  type RamImageStoreOptions,
  type SavedImage,
} from './store/ram-image-store-shell.js';
export {
  DigestComparison,
  type GuestToMove,
  type ImageOffer,
  planReuse,
  type ReusePlan,
} from './store/reuse.js';
