/** Between bytes of a disk and its clusters. */
import { ProtocolError } from '../../lib/index.js';
import type { ByteRange } from '../block-layer-shell.js';
import { DIRTY_CLUSTER_BYTES } from '../limits.js';
import type { ClusterRun } from './resync-wire.js';

const ZEROES = Buffer.alloc(DIRTY_CLUSTER_BYTES);

/** Of a disk of this size; the last one may be shorter than the others. */
export function clusterCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / DIRTY_CLUSTER_BYTES);
}

/** All clusters that the range touches. */
export function runOfRange({ offset, length }: ByteRange): ClusterRun {
  const first = Math.floor(offset / DIRTY_CLUSTER_BYTES);
  return { first, count: Math.ceil((offset + length) / DIRTY_CLUSTER_BYTES) - first };
}

export function rangeOfRun({ first, count }: ClusterRun, sizeBytes: number): ByteRange {
  const offset = first * DIRTY_CLUSTER_BYTES;
  return { offset, length: Math.min((first + count) * DIRTY_CLUSTER_BYTES, sizeBytes) - offset };
}

/** A peer's run must lie inside of the disk. Throws ProtocolError. */
export function checkRun({ first, count }: ClusterRun, sizeBytes: number): void {
  if (first + count > clusterCount(sizeBytes)) {
    throw new ProtocolError(
      `A run of ${count} clusters at ${first} is outside of a disk of ${sizeBytes} bytes`,
    );
  }
}

/** At most one cluster long. */
export function isZero(data: Buffer): boolean {
  return data.equals(ZEROES.subarray(0, data.length));
}

/** What `data`, which starts at a cluster's beginning, is made of: runs of zeroes and of others. */
export function splitZeroes(data: Buffer): { offset: number; length: number; zero: boolean }[] {
  const pieces: { offset: number; length: number; zero: boolean }[] = [];
  for (let offset = 0; offset < data.length; offset += DIRTY_CLUSTER_BYTES) {
    const cluster = data.subarray(offset, offset + DIRTY_CLUSTER_BYTES);
    const zero = isZero(cluster);
    const last = pieces.at(-1);
    if (last?.zero === zero) last.length += cluster.length;
    else pieces.push({ offset, length: cluster.length, zero });
  }
  return pieces;
}
