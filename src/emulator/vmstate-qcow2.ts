/**
 * A qcow2 file (QEMU docs/interop/qcow2.txt, version 3) that holds one internal snapshot, tag `colo`,
 * and nothing else: the way in for a device state, as `snapshot-load` reads VM state from a qcow2
 * snapshot only. Written once; then each device state overwrites the data clusters in place.
 *
 * Clusters of 64 KiB, all numbers big-endian. The disk itself is one cluster that is not allocated.
 *
 * | cluster | content                                                      |
 * |---------|--------------------------------------------------------------|
 * | 0       | header                                                       |
 * | 1       | refcount table: entry 0 -> cluster 2                         |
 * | 2       | refcount block: 16 bits per cluster, 1 for each in use       |
 * | 3       | active L1 table: 2 empty entries                             |
 * | 4       | the snapshot's L1: entry 0 empty, entry 1 -> cluster 6       |
 * | 5       | snapshot table: one entry                                    |
 * | 6       | L2 table: one entry per data cluster                         |
 * | 7...    | data: the VM state                                           |
 *
 * VM state follows the disk in a snapshot's address space, at the next multiple of what one L1
 * entry covers: 8192 clusters, 512 MiB.
 *
 * | header field            | offset | size | value                          |
 * |-------------------------|--------|------|--------------------------------|
 * | magic `QFI\xfb`         | 0      | 4    |                                |
 * | version                 | 4      | 4    | 3                              |
 * | backing file            | 8      | 12   | 0                              |
 * | cluster bits            | 20     | 4    | 16                             |
 * | disk size               | 24     | 8    | one cluster                    |
 * | encryption              | 32     | 4    | 0                              |
 * | active L1 entries       | 36     | 4    | 2                              |
 * | active L1 offset        | 40     | 8    | cluster 3                      |
 * | refcount table offset   | 48     | 8    | cluster 1                      |
 * | refcount table clusters | 56     | 4    | 1                              |
 * | snapshots               | 60     | 4    | 1                              |
 * | snapshot table offset   | 64     | 8    | cluster 5                      |
 * | feature bits            | 72     | 24   | 0                              |
 * | refcount order          | 96     | 4    | 4 (16 bits)                    |
 * | header length           | 100    | 4    | 104                            |
 *
 * | snapshot field          | offset | size | value                          |
 * |-------------------------|--------|------|--------------------------------|
 * | L1 offset               | 0      | 8    | cluster 4                      |
 * | L1 entries              | 8      | 4    | 2                              |
 * | id length, name length  | 12     | 2+2  | 1, 4                           |
 * | time, guest clock       | 16     | 16   | 0                              |
 * | VM state size, 32 bits  | 32     | 4    | as below                       |
 * | extra data size         | 36     | 4    | 24                             |
 * | VM state size           | 40     | 8    |                                |
 * | disk size               | 48     | 8    | one cluster                    |
 * | instruction count       | 56     | 8    | all ones: none                 |
 * | id, name                | 64     | 5    | `1`, `colo`; padded to 8       |
 */
import { assert } from '../lib/index.js';

/** The snapshot's tag, for `snapshot-load`. */
export const VM_STATE_TAG = 'colo';

const CLUSTER = 65536;
const CLUSTER_BITS = 16;
const REFCOUNT_TABLE = 1 * CLUSTER;
const REFCOUNT_BLOCK = 2 * CLUSTER;
const ACTIVE_L1 = 3 * CLUSTER;
const SNAPSHOT_L1 = 4 * CLUSTER;
const SNAPSHOT_TABLE = 5 * CLUSTER;
const L2 = 6 * CLUSTER;
const L1_ENTRIES = 2;
const HEADER_BYTES = 104;
/** In L1 and L2 entries: the cluster's refcount is exactly one. */
const COPIED = 1n << 63n;
const SNAPSHOT_ID = '1';

/** Offset in the file of the VM state's first byte. */
export const VM_STATE_OFFSET = 7 * CLUSTER;

/** Everything before the data; the file is `VM_STATE_OFFSET` + `stateBytesMax` long. */
export function encodeVmStateFile(stateBytesMax: number): Buffer {
  const dataClusters = stateBytesMax / CLUSTER;
  assert(
    Number.isInteger(dataClusters) && dataClusters <= CLUSTER / 8,
    'One L2 table is too small',
  );
  const file = Buffer.alloc(VM_STATE_OFFSET);
  encodeHeader(file);
  file.writeBigUInt64BE(BigInt(REFCOUNT_BLOCK), REFCOUNT_TABLE);
  for (let cluster = 0; cluster < VM_STATE_OFFSET / CLUSTER + dataClusters; cluster++) {
    file.writeUInt16BE(1, REFCOUNT_BLOCK + 2 * cluster);
  }
  file.writeBigUInt64BE(BigInt(L2) | COPIED, SNAPSHOT_L1 + 8);
  for (let cluster = 0; cluster < dataClusters; cluster++) {
    file.writeBigUInt64BE(BigInt(VM_STATE_OFFSET + cluster * CLUSTER) | COPIED, L2 + 8 * cluster);
  }
  encodeSnapshot(file.subarray(SNAPSHOT_TABLE), stateBytesMax);
  return file;
}

function encodeHeader(file: Buffer): void {
  file.write('QFI\xfb', 0, 'latin1');
  file.writeUInt32BE(3, 4);
  file.writeUInt32BE(CLUSTER_BITS, 20);
  file.writeBigUInt64BE(BigInt(CLUSTER), 24);
  file.writeUInt32BE(L1_ENTRIES, 36);
  file.writeBigUInt64BE(BigInt(ACTIVE_L1), 40);
  file.writeBigUInt64BE(BigInt(REFCOUNT_TABLE), 48);
  file.writeUInt32BE(1, 56);
  file.writeUInt32BE(1, 60);
  file.writeBigUInt64BE(BigInt(SNAPSHOT_TABLE), 64);
  file.writeUInt32BE(4, 96);
  file.writeUInt32BE(HEADER_BYTES, 100);
}

function encodeSnapshot(entry: Buffer, stateBytes: number): void {
  entry.writeBigUInt64BE(BigInt(SNAPSHOT_L1), 0);
  entry.writeUInt32BE(L1_ENTRIES, 8);
  entry.writeUInt16BE(SNAPSHOT_ID.length, 12);
  entry.writeUInt16BE(VM_STATE_TAG.length, 14);
  entry.writeUInt32BE(stateBytes, 32);
  entry.writeUInt32BE(24, 36);
  entry.writeBigUInt64BE(BigInt(stateBytes), 40);
  entry.writeBigUInt64BE(BigInt(CLUSTER), 48);
  entry.fill(0xff, 56, 64);
  entry.write(SNAPSHOT_ID + VM_STATE_TAG, 64, 'latin1');
}
