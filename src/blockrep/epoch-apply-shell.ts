/**
 * Writes the operations of one epoch into the image: several at a time, overlapping ones in order,
 * neighbours joined into one system call. Spilled data is read back on the way.
 */
import type { BufferedOperation } from './epoch-buffer.js';
import type { ImageFile } from './image-shell.js';
import { APPLY_CONCURRENCY, APPLY_PARTS_MAX, COPY_CHUNK_BYTES } from './limits.js';
import { RangeLock } from './range-lock-shell.js';
import type { SpillFile } from './spill-file-shell.js';

interface Batch {
  readonly offset: number;
  length: number;
  readonly operations: BufferedOperation[];
}

/** Resolves when all are written (not flushed); rejects with the first failure, nothing running. */
export async function applyOperations(
  image: ImageFile,
  operations: readonly BufferedOperation[],
  spill: SpillFile,
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
      await order.run(range, () => writeBatch(image, current, spill));
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

async function writeBatch(image: ImageFile, batch: Batch, spill: SpillFile): Promise<void> {
  const [first] = batch.operations;
  if (first === undefined) return;
  if (first.kind !== 'write') {
    const options = { mayTrim: first.kind === 'trim', fua: false };
    await image.writeZeroes(batch.offset, batch.length, options);
    return;
  }
  const parts: Buffer[] = [];
  for (const operation of batch.operations) parts.push(await dataOf(operation, spill));
  await image.writeMany(batch.offset, parts);
}

async function dataOf(operation: BufferedOperation, spill: SpillFile): Promise<Buffer> {
  if (operation.data !== undefined) return operation.data;
  const data = Buffer.allocUnsafeSlow(operation.length);
  await spill.read(operation.spillPosition ?? 0, data);
  return data;
}
