/**
 * Writes the operations of one epoch into an image: several at a time, overlapping ones in order,
 * neighbours joined into one system call. What is not in memory is read back from
 * the journal on the way.
 */
import type { BufferedOperation } from './epoch-buffer.js';
import { APPLY_CONCURRENCY, APPLY_PARTS_MAX, COPY_CHUNK_BYTES } from './limits.js';
import { RangeLock } from './range-lock-shell.js';
import type { StorageImage } from './storage-shell.js';

/** Data of a write that is not in memory. */
export type ReadBack = (operation: BufferedOperation) => Promise<Buffer>;

interface Batch {
  readonly offset: number;
  length: number;
  readonly operations: BufferedOperation[];
}

/** Resolves when all are written (not flushed); rejects with the first failure, nothing running. */
export async function applyOperations(
  image: StorageImage,
  operations: readonly BufferedOperation[],
  readBack: ReadBack,
): Promise<void> {
  const order = new RangeLock();
  const batches = joinNeighbours(operations);
  let next = 0;
  let failed = false;
  const work = async () => {
    // A batch takes its place in the order in the same turn in which it is taken.
    for (let batch = batches[next]; batch !== undefined && !failed; batch = batches[next]) {
      next += 1;
      const current = batch;
      const range = { offset: current.offset, length: current.length, exclusive: true };
      await order.run(range, () => writeBatch(image, current, readBack));
    }
  };
  const workers = Array.from({ length: APPLY_CONCURRENCY }, () =>
    work().catch((error) => {
      failed = true;
      throw error;
    }),
  );
  const results = await Promise.allSettled(workers);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Consecutive writes that continue each other on the disk become one batch. */
function joinNeighbours(operations: readonly BufferedOperation[]): Batch[] {
  const batches: Batch[] = [];
  for (const operation of operations) {
    const batch = batches.at(-1);
    const joins =
      batch !== undefined &&
      operation.kind === 'write' &&
      batch.operations[0]?.kind === 'write' &&
      batch.offset + batch.length === operation.offset &&
      batch.length + operation.length <= COPY_CHUNK_BYTES &&
      batch.operations.length < APPLY_PARTS_MAX;
    if (joins) {
      batch.operations.push(operation);
      batch.length += operation.length;
    } else {
      const { offset, length } = operation;
      batches.push({ offset, length, operations: [operation] });
    }
  }
  return batches;
}

async function writeBatch(image: StorageImage, batch: Batch, readBack: ReadBack): Promise<void> {
  const [first] = batch.operations;
  if (first === undefined) return;
  if (first.kind !== 'write') {
    const options = { mayTrim: first.kind === 'trim', fua: false };
    await image.writeZeroes(batch.offset, batch.length, options);
    return;
  }
  const parts: Buffer[] = [];
  for (const operation of batch.operations)
    parts.push(operation.data ?? (await readBack(operation)));
  await image.writeMany(batch.offset, parts);
}
