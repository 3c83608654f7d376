/**
 * Moving a guest between hosts: how its pages are coded and what of them is kept on disk.
 *
 * Source: RAM -> pages/page-encoder.ts (sent-pages.ts, page-delta.ts) -> pages/batch-compression.ts
 * where compression-advisor.ts says so -> pages/page-batch.ts -> the link. Destination: the link ->
 * pages/page-decoder.ts -> RAM. Which pages are missing: pages/page-bitmap.ts, on the wire
 * bitmap-wire.ts.
 *
 * Held here: a batch is written as a whole or not at all, and nothing of it before it was checked.
 */
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
