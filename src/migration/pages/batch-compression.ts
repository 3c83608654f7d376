/** Compression of a batch's data, in a thread of the pool: several batches at a time pay. */
import { compress } from 'lz4-napi';
import type { PageBatch } from './page-batch.js';

/** Less data than this is not worth a thread's attention. */
const WORTHWHILE_BYTES = 1024;

/**
 * The data compressed, for `encodeBatch`; undefined where that would save less than an eighth. The
 * batch's data must not change meanwhile. Never more memory than the data and some percent.
 */
export async function compressBatch(batch: PageBatch): Promise<Buffer | undefined> {
  if (batch.data.length < WORTHWHILE_BYTES) return undefined;
  const compressed = await compress(batch.data);
  return compressed.length <= batch.data.length * 0.875 ? compressed : undefined;
}
