/**
 * Migration: a guest moves from one host to another, before, at and after its switchover.
 *
 * Sections (messages.ts) come and go through a `MigrationChannel`; their bytes are section-wire.ts
 * (header, checksums, embedded sections) and section-codecs.ts (fields). source-core.ts decides at
 * the host that the guest leaves, destination-core.ts at the one that it comes to; what they want
 * and need is in source-state.ts and destination-state.ts. abilities.ts says what a destination
 * can't run. The protocol in words: docs/protocol/migration.md.
 *
 * Pages: RAM -> pages/page-encoder.ts (sent-pages.ts, page-delta.ts) -> pages/batch-compression.ts where
 * compression-advisor.ts says so -> pages/page-batch.ts -> the link -> pages/page-decoder.ts -> RAM.
 * Which are missing: pages/page-bitmap.ts, on the wire bitmap-wire.ts. store/ is what is kept on disk.
 *
 * Invariants: a guest runs at one host only; a source that has sent `run` never resumes by itself;
 * a destination that has not received it never runs by itself; a page that the running guest may
 * have written is never overwritten; a batch is written as a whole or not at all.
 */
export * from './destination-state.js';
export * from './messages.js';
export { compressBatch } from './pages/batch-compression.js';
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
export { SourceCore } from './source-core.js';
export * from './source-state.js';
