/**
 * Migration: a guest moves from one host to another, before, at and after its switchover.
 *
 * Sections (messages.ts) come and go through a `MigrationChannel`. Their bytes: section-wire.ts
 * (header, checksums, embedded sections) → section-table.ts (which codec, which version) →
 * section-codecs.ts (fields). source-core.ts decides at the host that the guest leaves, with
 * precopy-pace.ts (when to pause), page-sender.ts (which pages next) and source-handover.ts (from
 * `run` on); destination-core.ts decides at the host that it comes to, with arrivals.ts (what has
 * come, and what is missing). abilities.ts says what a destination can't run. The protocol in
 * words: docs/protocol/migration.md.
 *
 * Invariants: a guest runs at one host only; a source that has sent `run` never resumes by itself;
 * a destination that has not received it never runs by itself; a page that the running guest may
 * have written is never overwritten.
 */
export { type Abilities, differencesOf } from './abilities.js';
export { DestinationCore } from './destination-core.js';
export type {
  DestinationInput,
  DestinationOptions,
  DestinationOutcome,
  DestinationOutput,
  DestinationProgress,
  DestinationRecord,
  DestinationState,
  PlainSourceSection,
} from './destination-state.js';
export type { FaultReport } from './fault-statistics.js';
export {
  type Compression,
  type DestinationSection,
  type Difference,
  type DiskPlace,
  type HelloSection,
  LINK_OF,
  type MigratedDisk,
  type MigratedNic,
  type MigrationChannel,
  type MigrationChoices,
  type MigrationId,
  type MigrationLink,
  type MigrationMode,
  type PageStream,
  type Section,
  type SectionKind,
  type SourceSection,
} from './messages.js';
export { DESTINATION_SECTIONS, SOURCE_SECTIONS } from './section-codecs.js';
export { type SectionCodec, SectionTable } from './section-table.js';
export { type RawSection, SectionReader, unframeSection } from './section-wire.js';
export { SourceCore } from './source-core.js';
export type {
  HandedOver,
  SourceInput,
  SourceOptions,
  SourceOutcome,
  SourceOutput,
  SourceProgress,
  SourceRecord,
  SourceState,
} from './source-state.js';
