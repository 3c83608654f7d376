/** Compression of a batch's data, in a thread of the pool: several batches at a time pay. */
import { compress } from 'lz4-napi';
import type { CompressionAdvisor } from './compression-advisor.js';
import { type CheckedBatch, encodeChecked, type PageBatch } from './page-batch.js';

/** Less data than this is not worth a thread's attention. */
const WORTHWHILE_BYTES = 1024;

/** What is longer than this after compression, by what it was, is sent as it was. */
const RATIO_MAX = 0.875;

/**
 * The data compressed, for `encodeBatch`; undefined where that would save less than an eighth. The
 * batch's data must not change meanwhile. Never more memory than the data and some percent.
 */
export async function compressBatch(batch: PageBatch): Promise<Buffer | undefined> {
  if (batch.data.length < WORTHWHILE_BYTES) return undefined;
  const compressed = await compress(batch.data);
  return compressed.length <= batch.data.length * RATIO_MAX ? compressed : undefined;
}

/**
 * A batch's bytes as `encodeChecked` gives them, compressed if the advisor says that it pays; it is
 * told how that went. Batches may be coded at the same time, and must be sent in their order. What
 * the link does, the caller tells the advisor.
 */
export async function codeBatch(
  batch: PageBatch,
  advisor: CompressionAdvisor,
  nowUs: () => number,
): Promise<CheckedBatch> {
  const startUs = nowUs();
  if (batch.data.length < WORTHWHILE_BYTES || advisor.advise(startUs) === 'plain') {
    return encodeChecked(batch);
  }
  const compressed = await compressBatch(batch);
  const endUs = nowUs();
  const rawBytes = batch.data.length;
  const codedBytes = compressed?.length ?? rawBytes;
  advisor.coded({ rawBytes, codedBytes, durationUs: endUs - startUs }, endUs);
  return encodeChecked(batch, compressed);
}
