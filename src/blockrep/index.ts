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
 * What an image can be: image-open-shell.ts, qcow2-export-shell.ts.
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
export { ImageFile, type ImageOptions } from './image-shell.js';
export { DIRTY_CLUSTER_BYTES, DISK_DATA_BYTES_MAX, type SecondaryBounds } from './limits.js';
export { NbdServer, type NbdServerOptions, type NbdServerStats } from './nbd-server-shell.js';
export {
  ReplicatedDisk,
  type ReplicatedDiskOptions,
  type ReplicatedDiskStats,
  type ReplicationMode,
} from './replicated-disk-shell.js';
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
export type { StorageDirectory, StorageFile, StorageImage } from './storage-shell.js';
