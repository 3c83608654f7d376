/**
 * The disk: NBD server for QEMU, replication of the PVM's writes, and the secondary's disk.
 *
 * Primary: QEMU -> nbd-connection-shell.ts (nbd-session.ts: nbd-negotiation.ts, nbd-wire.ts) ->
 * replicated-disk-shell.ts
 *   -> image-shell.ts; its `onWrite` -> epoch-sender.ts -> disk-wire.ts -> the disk channel.
 * Secondary: the disk channel -> disk-wire.ts -> secondary-disks-shell.ts `stage`
 *   -> epoch-buffer.ts and journal-shell.ts (journal-format.ts; written ahead, one sync per epoch),
 *   at apply -> epoch-apply-shell.ts -> image-shell.ts. At a start what a crash left in the journal
 *   -> journal-recovery-shell.ts (journal-scan.ts) -> image-shell.ts. The SVM's QEMU -> NBD ->
 *   secondary-disk-shell.ts -> overlay-shell.ts (overlay-map.ts, overlay-store-shell.ts).
 * What an image can be: image-open-shell.ts, qcow2-export-shell.ts. One that two hosts see:
 * shared/shared-image-shell.ts; how the one shows the other that it is the same: shared/proof.ts.
 *
 * Whose data an image has: generation/ (record.ts, judge.ts, change-map.ts, kept in step by
 * disk-generation-shell.ts). Making two images equal while the guest runs: resync/ (resync-wire.ts,
 * comparer-shell.ts; resync-source-shell.ts and verifier-shell.ts on the primary,
 * resync-target-shell.ts on the secondary).
 *
 * Held here: I2 and I3 for the disk (nothing uncommitted reaches an image, nothing committed is
 * dropped), I6 (an epoch is closed only when all of it is durable). After a crash at any moment all
 * images of a guest are at the end of one epoch.
 */
export type { BlockLayer, ByteRange, ZeroOptions } from './block-layer-shell.js';
export { DeadlineDisk } from './deadline-disk-shell.js';
export { type DiskOperation, type EpochTotals, operationLength } from './disk-operation.js';
export {
  DISK_MESSAGE_TYPE,
  type DiskMessage,
  decodeDiskMessage,
  type EncodedDiskMessage,
  encodeDiskMessage,
  splitOperation,
} from './disk-wire.js';
export type { CloseResult } from './epoch-buffer.js';
export { EpochSender } from './epoch-sender.js';
export { DiskError } from './errors.js';
export type { WriteMarks } from './generation/change-map.js';
export {
  type DiscardedImage,
  type DiscardOptions,
  discardImage,
} from './generation/discard-shell.js';
export {
  DiskGeneration,
  type DiskGenerationOptions,
  type GenerationSummary,
} from './generation/disk-generation-shell.js';
export {
  type AcceptedImage,
  type DiskVerdict,
  type GuestVerdict,
  type ImageClaim,
  judgeDisks,
  type MapState,
  type PrimaryImage,
  parseAcceptedImages,
  parsePrimaryImages,
} from './generation/judge.js';
export { type GenerationRecord, type Lineage, lineageOf } from './generation/record.js';
export { readRecords } from './generation/record-file-shell.js';
export { type Standing, standingOf } from './generation/standing.js';
export { ImageFile, type ImageOptions } from './image-shell.js';
export { DIRTY_CLUSTER_BYTES, DISK_DATA_BYTES_MAX, type SecondaryBounds } from './limits.js';
export { NbdServer, type NbdServerOptions, type NbdServerStats } from './nbd-server-shell.js';
export {
  ReplicatedDisk,
  type ReplicatedDiskOptions,
  type ReplicatedDiskStats,
  type ReplicationMode,
} from './replicated-disk-shell.js';
export type { ResyncLink } from './resync/comparer-shell.js';
export type { ResyncProgress } from './resync/progress.js';
export {
  RateLimit,
  type ResyncDisk,
  ResyncSource,
  type ResyncSourceOptions,
} from './resync/resync-source-shell.js';
export {
  ResyncTarget,
  type ResyncTargetDisk,
  type ResyncTargetOptions,
} from './resync/resync-target-shell.js';
export {
  type ChangedMessage,
  type DigestAnswer,
  type DigestRequest,
  decodeResyncMessage,
  encodeResyncMessage,
  isResyncType,
  RESYNC_MESSAGE_TYPE,
  type ResyncMessage,
} from './resync/resync-wire.js';
export { DiskVerifier, type VerifierOptions, type VerifyResult } from './resync/verifier-shell.js';
export {
  digestLayer,
  SecondaryDisk,
  type SecondaryDiskOptions,
  type SecondaryDiskStats,
} from './secondary-disk-shell.js';
export {
  SecondaryDisks,
  type SecondaryDisksOptions,
  type SecondaryDisksStats,
} from './secondary-disks-shell.js';
export { parseSharedProofs, type SharedProof } from './shared/proof.js';
export { type SharedPlace, SharedProofs, sharedDifference } from './shared/proof-shell.js';
export { SharedImage } from './shared/shared-image-shell.js';
export type { StorageDirectory, StorageFile, StorageImage } from './storage-shell.js';
