/** Digests of clusters, and which clusters need not be read for them. */
import { createHash } from 'node:crypto';
import type { ByteRange } from '../block-layer-shell.js';
import { DirtyBitmap } from '../dirty-bitmap.js';
import { DIGEST_BYTES } from '../limits.js';

/** The first 16 bytes of the SHA-256. */
export function clusterDigest(data: Buffer): Buffer {
  return createHash('sha256').update(data).digest().subarray(0, DIGEST_BYTES);
}

/** Clusters that may hold something else than zeroes, by what the image says of its holes. */
export function dataClusters(sizeBytes: number, ranges: readonly ByteRange[]): DirtyBitmap {
  const bitmap = new DirtyBitmap(sizeBytes);
  for (const { offset, length } of ranges) bitmap.mark(offset, length);
  return bitmap;
}
