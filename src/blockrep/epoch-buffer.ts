/**
 * The PVM's disk writes that are not in the images yet, of all disks of the guest, by epoch and in
 * order.
 *
 *   stage -> close (counts checked, each disk) -> stored -> commit -> operations, written to the
 *            images -> release
 *                      \-> dropUncommitted
 *
 * Epochs only grow; the open one is the last; they are committed and released oldest first. Only
 * committed epochs survive `dropUncommitted` (I2, I3: nothing of an uncommitted epoch may reach an
 * image, nothing committed may be lost).
 *
 * Data is copied into slabs of the epoch while the memory bound allows; beyond it the operation has
 * no data here and must be read back from the journal. A peer that breaks the order gets a
 * ProtocolError.
 */
import { ProtocolError } from '../lib/index.js';
import { type DiskOperation, type EpochTotals, operationLength } from './disk-operation.js';
import type { JournalLocation } from './journal-format.js';
import { OPERATION_OVERHEAD_BYTES, type SecondaryBounds, SLAB_BYTES } from './limits.js';

/** An operation in the buffer. A write without `data` is in the journal only. */
export interface BufferedOperation {
  readonly kind: DiskOperation['kind'];
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer | undefined;
  /** Where a write's data is in the journal, once it is written there. */
  location: JournalLocation | undefined;
}

export type StageResult =
  /** `data`: a copy for the journal, undefined when there is none. */
  | {
      readonly kind: 'buffered';
      readonly operation: BufferedOperation;
      readonly data: Buffer | undefined;
    }
  /** A hard bound is reached: this secondary can not take over any more. */
  | { readonly kind: 'full'; readonly reason: string };

export type CloseResult = { readonly ok: true } | { readonly ok: false; readonly reason: string };

interface DiskRecord {
  readonly operations: BufferedOperation[];
  bytes: number;
  closed: boolean;
}

interface EpochRecord {
  readonly epoch: number;
  /** `closed`: not stored yet. `broken`: other counts than announced; it can only be dropped. */
  state: 'open' | 'closed' | 'stored' | 'broken' | 'committed';
  readonly disks: readonly DiskRecord[];
  operations: number;
  memoryBytes: number;
  spilledBytes: number;
  slab: Buffer;
  slabUsed: number;
}

const FIRST_SLAB_BYTES = 64 * 1024;
const NO_SLAB = Buffer.alloc(0);

export class EpochBuffer {
  readonly #bounds: SecondaryBounds;
  readonly #disks: number;
  readonly #records: EpochRecord[] = [];
  #lastEpoch = -1;
  #memoryBytes = 0;
  #spilledBytes = 0;
  #operations = 0;

  constructor(bounds: SecondaryBounds, disks: number) {
    this.#bounds = bounds;
    this.#disks = disks;
  }

  /** Memory in use: data and what describes the operations. */
  get memoryBytes(): number {
    return this.#memoryBytes;
  }

  /** Data that is in the journal only. */
  get spilledBytes(): number {
    return this.#spilledBytes;
  }

  get operationCount(): number {
    return this.#operations;
  }

  get isEmpty(): boolean {
    return this.#records.length === 0;
  }

  /** Committed epochs whose operations are not in the images yet, oldest first. */
  get committedEpochs(): number[] {
    return this.#records.filter((record) => record.state === 'committed').map((r) => r.epoch);
  }

  /** Operations of one disk, and their bytes, zeroes and trims included. */
  ofDisk(disk: number): EpochTotals {
    let [operations, bytes] = [0, 0];
    for (const record of this.#records) {
      operations += record.disks[disk]?.operations.length ?? 0;
      bytes += record.disks[disk]?.bytes ?? 0;
    }
    return { operations, bytes };
  }

  /** Copies the operation's data. */
  stage(disk: number, epoch: number, operation: DiskOperation): StageResult {
    const { record, own } = this.#open(disk, epoch);
    const length = operationLength(operation);
    const { kind, offset } = operation;
    if (this.#operations >= this.#bounds.bufferOperations) {
      return { kind: 'full', reason: `${this.#operations} operations are buffered` };
    }
    if (operation.kind !== 'write') {
      const entry = { kind, offset, length, data: undefined, location: undefined };
      this.#add(record, own, entry);
      return { kind: 'buffered', operation: entry, data: undefined };
    }
    const wanted = this.#memoryBytes + length + OPERATION_OVERHEAD_BYTES;
    if (wanted <= this.#bounds.bufferMemoryBytes) {
      const data = copyToSlab(record, operation.data);
      const entry = { kind, offset, length, data, location: undefined };
      this.#add(record, own, entry);
      return { kind: 'buffered', operation: entry, data };
    }
    if (this.#spilledBytes + length > this.#bounds.bufferSpillBytes) {
      return { kind: 'full', reason: `${this.#spilledBytes} bytes are in the journal only` };
    }
    const entry = { kind, offset, length, data: undefined, location: undefined };
    this.#add(record, own, entry);
    this.#spilledBytes += length;
    record.spilledBytes += length;
    return { kind: 'buffered', operation: entry, data: Buffer.from(operation.data) };
  }

  /** Ends the epoch for one disk; a difference of the counts means that something was lost. */
  close(disk: number, epoch: number, totals: EpochTotals): CloseResult {
    const { record, own } = this.#open(disk, epoch);
    own.closed = true;
    const found = { operations: own.operations.length, bytes: own.bytes };
    if (found.operations !== totals.operations || found.bytes !== totals.bytes) {
      record.state = 'broken';
      const reason =
        `Epoch ${epoch} has ${found.operations} operations with ${found.bytes} bytes where ` +
        `${totals.operations} with ${totals.bytes} were announced`;
      return { ok: false, reason };
    }
    if (record.disks.every(({ closed }) => closed)) record.state = 'closed';
    return { ok: true };
  }

  /** Totals of each disk once all have closed the epoch and it is to be stored, else undefined. */
  toStore(epoch: number): EpochTotals[] | undefined {
    const record = this.#records.find((each) => each.epoch === epoch);
    if (record?.state !== 'closed') return undefined;
    return record.disks.map(({ operations, bytes }) => ({ operations: operations.length, bytes }));
  }

  /** All of the epoch is durable; false when it was dropped meanwhile. */
  stored(epoch: number): boolean {
    const record = this.#records.find((each) => each.epoch === epoch);
    if (record?.state !== 'closed') return false;
    record.state = 'stored';
    return true;
  }

  /** From here the epoch's operations must reach the images, whatever becomes of the primary. */
  commit(epoch: number): void {
    const record = this.#records.find((each) => each.state !== 'committed');
    if (record?.epoch !== epoch || record.state !== 'stored') {
      throw new ProtocolError(
        `Epoch ${epoch} can not be committed: it is not the oldest stored one`,
      );
    }
    record.state = 'committed';
  }

  /** The committed epoch's operations of one disk, in order. It must be the oldest. */
  operations(disk: number, epoch: number): readonly BufferedOperation[] {
    return this.#oldestCommitted(epoch).disks[disk]?.operations ?? [];
  }

  /** Forgets the oldest epoch, whose operations are in the images. */
  release(epoch: number): void {
    const record = this.#oldestCommitted(epoch);
    this.#records.shift();
    this.#forget(record);
  }

  /** Returns the oldest epoch that is dropped, if any. */
  dropUncommitted(): number | undefined {
    let oldest: number | undefined;
    while (this.#records.length > 0 && this.#records.at(-1)?.state !== 'committed') {
      const record = this.#records.pop() as EpochRecord;
      this.#forget(record);
      oldest = record.epoch;
    }
    return oldest;
  }

  #open(disk: number, epoch: number): { record: EpochRecord; own: DiskRecord } {
    const record = this.#openRecord(epoch);
    const own = record.disks[disk];
    if (own === undefined) throw new ProtocolError(`There is no disk ${disk}`);
    if (own.closed) throw new ProtocolError(`Epoch ${epoch} of disk ${disk} has ended already`);
    return { record, own };
  }

  #openRecord(epoch: number): EpochRecord {
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
      disks: Array.from({ length: this.#disks }, () => ({
        operations: [],
        bytes: 0,
        closed: false,
      })),
      operations: 0,
      memoryBytes: 0,
      spilledBytes: 0,
      slab: NO_SLAB,
      slabUsed: 0,
    };
    this.#records.push(record);
    return record;
  }

  #add(record: EpochRecord, own: DiskRecord, operation: BufferedOperation): void {
    const memory = OPERATION_OVERHEAD_BYTES + (operation.data?.length ?? 0);
    own.operations.push(operation);
    own.bytes += operation.length;
    record.operations += 1;
    record.memoryBytes += memory;
    this.#memoryBytes += memory;
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

  #forget(record: EpochRecord): void {
    this.#memoryBytes -= record.memoryBytes;
    this.#spilledBytes -= record.spilledBytes;
    this.#operations -= record.operations;
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
