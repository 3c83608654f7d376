/**
 * Migration: a guest moves from one host to another, before, at and after its switchover.
 *
 * Sections (messages.ts) come and go through a `MigrationChannel`. Their bytes: section-wire.ts
 * (header, checksums, embedded sections) → section-table.ts (which codec, which version) →
 * section-codecs.ts (fields). source-core.ts decides at the host that the guest leaves, with
 * precopy-pace.ts (when to pause), page-sender.ts (which pages next) and source-handover.ts (from
 * `run` on); destination-core.ts decides at the host that it comes to, with arrivals.ts (what has
 * come, and what is missing). Pages that the guest waits for go beside the cores: fault-lane.ts.
 * abilities.ts says what a destination can't run. The protocol in words: docs/protocol/migration.md.
 *
 * Pages: RAM -> pages/page-encoder.ts (sent-pages.ts, page-delta.ts) -> pages/batch-compression.ts
 * where compression-advisor.ts says so -> pages/page-batch.ts -> the link -> pages/page-decoder.ts
 * -> RAM. Which are missing: pages/page-bitmap.ts.
 *
 * Kept on disk: store/backup-file-shell.ts has pages of a postcopy whose network does not come
 * back; store/ram-image-store-shell.ts the RAM of guests that have left, so that a return sends
 * only what differs, or less: page-digest-shell.ts -> digest-wire.ts -> ram-comparison-shell.ts
 * (reuse.ts). A pair that comes together again compares its RAMs in the same way.
 *
 * Invariants: a guest runs at one host only; a source that has sent `run` never resumes by itself;
 * a destination that has not received it never runs by itself; a page that the running guest may
 * have written is never overwritten; a batch is written as a whole or not at all; of a file nothing
 * is used before all of it was verified, or of an image each page.
 */
export { type Abilities, differencesOf } from './abilities.js';
export { DestinationCore } from './destination-core.js';
export type {
  DestinationInput,
  DestinationOptions,
  DestinationOutcome,
  DestinationOutput,
  DestinationRecord,
  DestinationState,
  PlainSourceSection,
} from './destination-state.js';
export { DemandQueue, FaultDemands } from './fault-lane.js';
export {
  type Compression,
  type DemandedSection,
  type DemandSection,
  type DestinationSection,
  DISK_PLACES,
  type Difference,
  type DiskPlace,
  type HelloSection,
  type LaneSection,
  LINK_OF,
  type MigratedDisk,
  type MigratedNic,
  type MigrationChannel,
  type MigrationChoices,
  type MigrationId,
  type MigrationLink,
  type MigrationMode,
  movesDisks,
  type Section,
  type SectionKind,
  type SourceSection,
} from './messages.js';
export { codeBatch, compressBatch } from './pages/batch-compression.js';
export {
  type CompressionAdvice,
  CompressionAdvisor,
  type CompressionAdvisorOptions,
  type CompressionFigures,
} from './pages/compression-advisor.js';
export {
  BATCH_BYTES_MAX,
  type CheckedBatch,
  decodeBatch,
  encodeBatch,
  encodeChecked,
  type PageBatch,
  type PageRun,
} from './pages/page-batch.js';
export { PageBitmap, pageBitmapOf } from './pages/page-bitmap.js';
export { type AppliedBatch, PageDecoder, type PageTarget } from './pages/page-decoder.js';
export {
  PageEncoder,
  type PageEncoderOptions,
  type PageEncoderStats,
  type PageSource,
} from './pages/page-encoder.js';
export { plainBatch } from './pages/plain-batch.js';
export {
  type CheckedParts,
  DESTINATION_SECTIONS,
  encodePages,
  SOURCE_SECTIONS,
} from './section-codecs.js';
export { type SectionCodec, SectionTable } from './section-table.js';
export { type RawSection, SectionReader, unframeSection } from './section-wire.js';
export { SourceCore } from './source-core.js';
export type {
  HandedOver,
  PlainDestinationSection,
  SourceInput,
  SourceOptions,
  SourceOutcome,
  SourceOutput,
  SourceProgress,
  SourceRecord,
  SourceState,
} from './source-state.js';
export {
  BackupFile,
  openBackup,
  type StoreProgress,
  type WriteBackupOptions,
  writeBackup,
} from './store/backup-file-shell.js';
export {
  type DigestBatch,
  DigestDecoder,
  encodeDigestBatch,
  encodeDigests,
} from './store/digest-wire.js';
export { BackupError, RamImageError } from './store/errors.js';
export { SALT_BYTES } from './store/limits.js';
export { type DigestedPages, digestPages, digestPresent } from './store/page-digest-shell.js';
export {
  type ComparedPages,
  RamComparison,
  type RamComparisonOptions,
} from './store/ram-comparison-shell.js';
export type { ImageHeader } from './store/ram-image-format.js';
export { type DepartedRam, RamImage, type SaveImageOptions } from './store/ram-image-shell.js';
export {
  RamImageStore,
  type RamImageStoreOptions,
  type SavedImage,
} from './store/ram-image-store-shell.js';
export { DigestComparison } from './store/reuse.js';
