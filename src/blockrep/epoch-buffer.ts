/**
 * The PVM's disk writes that are not in the image yet, by epoch and in order.
 *
 *   stage -> close (counts checked) -> commit -> operations, written to the image -> release
 *                      \-> dropUncommitted
 *
 * Epochs only grow; the open one is the last; they are committed and released oldest first. Only
 * committed epochs survive `dropUncommitted` (I2, I3: nothing of an uncommitted epoch may reach the
 * image, nothing committed may be lost).
 *
 * Data is copied into slabs of the epoch while the memory bound allows; beyond it `stage` returns a
 * position in the spill file where the caller must put the data before it acknowledges the epoch.
 * A peer that breaks the order gets a ProtocolError.
 */
import { ProtocolError } from '../lib/index.js';
import { type DiskOperation, type EpochTotals, operationLength } from './disk-operation.js';
import { OPERATION_OVERHEAD_BYTES, type SecondaryBounds, SLAB_BYTES } from './limits.js';

/** An operation in the buffer; a write has either `data` or a position in the spill file. */
export interface BufferedOperation {
  readonly kind: DiskOperation['kind'];
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer | undefined;
  readonly spillPosition: number | undefined;
}

/** What the caller of `stage` must do. */
export type StageResult =
  | { readonly kind: 'buffered' }
  | { readonly kind: 'spill'; readonly position: number }
  /** A hard bound is reached: this secondary can not take over any more. */
  | { readonly kind: 'full'; readonly reason: string };

export type CloseResult = { readonly ok: true } | { readonly ok: false; readonly reason: string };

/** A part of the spill file that nothing needs any more. */
export interface SpillRange {
  readonly from: number;
  readonly to: number;
}

interface EpochRecord {
  readonly epoch: number;
  /** `broken`: ended with other counts than announced; it can only be dropped. */
  state: 'open' | 'closed' | 'broken' | 'committed';
  readonly operations: BufferedOperation[];
  bytes: number;
  memoryBytes: number;
  spilledBytes: number;
  spillFrom: number;
  slab: Buffer;
  slabUsed: number;
}

const FIRST_SLAB_BYTES = 64 * 1024;
const NO_SLAB = Buffer.alloc(0);

export class EpochBuffer {
  readonly #bounds: SecondaryBounds;
  readonly #records: EpochRecord[] = [];
  #lastEpoch = -1;
  #memoryBytes = 0;
  #spilledBytes = 0;
  #operations = 0;
  #spillEnd = 0;

  constructor(bounds: SecondaryBounds) {
    this.#bounds = bounds;
  }

  /** Memory in use: data and what describes the operations. */
  get memoryBytes(): number {
    return this.#memoryBytes;
  }

  get spilledBytes(): number {
    return this.#spilledBytes;
  }

  get operationCount(): number {
    return this.#operations;
  }

  /** Committed epochs whose operations are not in the image yet, oldest first. */
  get committedEpochs(): number[] {
    return this.#records.filter((record) => record.state === 'committed').map((r) => r.epoch);
  }

  /** Copies the operation's data, or tells where in the spill file it must go. */
  stage(epoch: number, operation: DiskOperation): StageResult {
    const record = this.#open(epoch);
    const length = operationLength(operation);
    const { kind, offset } = operation;
    if (this.#operations >= this.#bounds.bufferOperations) {
      return { kind: 'full', reason: `${this.#operations} operations are buffered` };
    }
    if (operation.kind !== 'write') {
      this.#add(record, { kind, offset, length, data: undefined, spillPosition: undefined });
      return { kind: 'buffered' };
    }
    const wanted = this.#memoryBytes + length + OPERATION_OVERHEAD_BYTES;
    if (wanted <= this.#bounds.bufferMemoryBytes) {
      const data = copyToSlab(record, operation.data);
      this.#add(record, { kind, offset, length, data, spillPosition: undefined });
      return { kind: 'buffered' };
    }
    if (this.#spilledBytes + length > this.#bounds.bufferSpillBytes) {
      return { kind: 'full', reason: `${this.#spilledBytes} bytes are in the spill file` };
    }
    const position = this.#spillEnd;
    this.#spillEnd += length;
    if (record.spilledBytes === 0) record.spillFrom = position;
    this.#add(record, { kind, offset, length, data: undefined, spillPosition: position });
    return { kind: 'spill', position };
  }

  /** Ends the epoch and compares the counts; a difference means that something was lost. */
  close(epoch: number, totals: EpochTotals): CloseResult {
    const record = this.#open(epoch);
    const found = { operations: record.operations.length, bytes: record.bytes };
    if (found.operations === totals.operations && found.bytes === totals.bytes) {
      record.state = 'closed';
      return { ok: true };
    }
    record.state = 'broken';
    const reason =
      `Epoch ${epoch} has ${found.operations} operations with ${found.bytes} bytes where ` +
      `${totals.operations} with ${totals.bytes} were announced`;
    return { ok: false, reason };
  }

  /** From here the epoch's operations must reach the image, whatever becomes of the primary. */
  commit(epoch: number): void {
    const record = this.#records.find((each) => each.state !== 'committed');
    if (record?.epoch !== epoch || record.state !== 'closed') {
      throw new ProtocolError(
        `Epoch ${epoch} can not be committed: it is not the oldest closed one`,
      );
    }
    record.state = 'committed';
  }

  /** The committed epoch's operations, in order. It must be the oldest. */
  operations(epoch: number): readonly BufferedOperation[] {
    return this.#oldestCommitted(epoch).operations;
  }

  /** Forgets the oldest epoch, whose operations are in the image. */
  release(epoch: number): SpillRange | undefined {
    const record = this.#oldestCommitted(epoch);
    this.#records.shift();
    return this.#forget(record);
  }

  dropUncommitted(): SpillRange[] {
    const ranges: SpillRange[] = [];
    while (this.#records.length > 0 && this.#records.at(-1)?.state !== 'committed') {
      const range = this.#forget(this.#records.pop() as EpochRecord);
      if (range !== undefined) ranges.push(range);
    }
    return ranges;
  }

  /** Starts the spill file from its beginning again; only while nothing is in it or on its way. */
  rewindSpill(): void {
    if (this.#spilledBytes === 0) this.#spillEnd = 0;
  }

  #open(epoch: number): EpochRecord {
    const last = this.#records.at(-1);
    if (last?.epoch === epoch && last.state === 'open') return last;
    if (last?.state === 'open') {
      throw new ProtocolError(`Epoch ${epoch} begins before epoch ${last.epoch} has ended`);
    }
    if (epoch <= this.#lastEpoch) {
      throw new ProtocolError(`Epoch ${epoch} follows epoch ${this.#lastEpoch}`);
    }
    this.#lastEpoch = epoch;
    const record: EpochRecord = {
      epoch,
      state: 'open',
      operations: [],
      bytes: 0,
      memoryBytes: 0,
      spilledBytes: 0,
      spillFrom: 0,
      slab: NO_SLAB,
      slabUsed: 0,
    };
    this.#records.push(record);
    return record;
  }

  #add(record: EpochRecord, operation: BufferedOperation): void {
    const { length, data } = operation;
    const memory = OPERATION_OVERHEAD_BYTES + (data?.length ?? 0);
    const spilled = operation.spillPosition === undefined ? 0 : length;
    record.operations.push(operation);
    record.bytes += length;
    record.memoryBytes += memory;
    record.spilledBytes += spilled;
    this.#memoryBytes += memory;
    this.#spilledBytes += spilled;
    this.#operations += 1;
  }

  #oldestCommitted(epoch: number): EpochRecord {
    const record = this.#records[0];
    if (record?.epoch !== epoch || record.state !== 'committed') {
      throw new ProtocolError(
        `Epoch ${epoch} can not be applied: it is not the oldest committed one`,
      );
    }
    return record;
  }

  #forget(record: EpochRecord): SpillRange | undefined {
    this.#memoryBytes -= record.memoryBytes;
    this.#spilledBytes -= record.spilledBytes;
    this.#operations -= record.operations.length;
    if (record.spilledBytes === 0) return undefined;
    return { from: record.spillFrom, to: record.spillFrom + record.spilledBytes };
  }
}

/** Small first slab, because most epochs write little; then whole ones. */
function copyToSlab(record: EpochRecord, data: Buffer): Buffer {
  if (record.slabUsed + data.length > record.slab.length) {
    const wanted = record.slab.length === 0 ? FIRST_SLAB_BYTES : SLAB_BYTES;
    record.slab = Buffer.allocUnsafeSlow(Math.max(wanted, data.length));
    record.slabUsed = 0;
  }
  const copy = record.slab.subarray(record.slabUsed, record.slabUsed + data.length);
  data.copy(copy);
  record.slabUsed += data.length;
  return copy;
}
