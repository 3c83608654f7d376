/**
 * Reads a journal's segment: which epochs are in it as a whole, where it ends, and whether what is
 * behind the end is only a torn tail.
 *
 * In: bytes, asked for by yielding a range; out: the verdict, and the records themselves when they
 * are wanted. Never more than one record (1 MiB) is held. Any bytes may come: a record counts only
 * when its checksum continues the one before it and it lies inside its disk, an epoch only when its
 * end record agrees with what was counted.
 *
 * A torn tail is silent. It is the last epoch's: an epoch is begun only when everything before it
 * is durable. So a valid mark behind a place that can not be read proves damage.
 */
import { type DiskOperation, type EpochTotals, operationLength } from './disk-operation.js';
import {
  alignToBlock,
  decodeMark,
  decodeRecordHead,
  encodeTotals,
  type JournalHeader,
  MARK_BYTES,
  RECORD_BYTES,
  type RecordHead,
  recordChecksum,
} from './journal-format.js';
import { DISK_DATA_BYTES_MAX, JOURNAL_BLOCK_BYTES } from './limits.js';

/** A wish for bytes; answer with them, fewer where the file ends. */
export interface ReadStep {
  readonly kind: 'read';
  readonly offset: number;
  readonly length: number;
}

/** An operation of the journal, valid; answer with anything. Its data is borrowed. */
export interface OperationStep {
  readonly kind: 'operation';
  readonly disk: number;
  readonly operation: DiskOperation;
}

export type ScanStep = ReadStep | OperationStep;
/** A pure reader: the shell answers what it yields. */
export type Scan<T> = Generator<ScanStep, T, Buffer>;

export interface ScannedSegment {
  readonly header: JournalHeader;
  /** Of the file; nothing is asked for beyond it. */
  readonly sizeBytes: number;
  readonly diskSizes: readonly number[];
}

/** A complete epoch: its records follow `position`, the first continues `chain`. */
export interface EpochExtent {
  readonly epoch: number;
  readonly position: number;
  readonly chain: number;
}

/** How far the journal has been read; where the next segment goes on. */
export interface ScanState {
  /** Checksum that the next mark must continue; undefined at the oldest segment's beginning. */
  readonly chain: number | undefined;
  readonly run: number;
  readonly lastEpoch: number;
}

export interface SegmentScan extends ScanState {
  readonly epochs: readonly EpochExtent[];
  /** Where reading stopped. */
  readonly end: number;
}

/** Reads the segment up to its end or to the first thing that is not valid. */
export function* scanSegment(segment: ScannedSegment, from: ScanState): Scan<SegmentScan> {
  const epochs: EpochExtent[] = [];
  let { chain, run, lastEpoch } = from;
  let end = JOURNAL_BLOCK_BYTES;
  while (end + MARK_BYTES <= segment.sizeBytes) {
    const mark = yield* markAt(segment, end);
    if (mark === undefined || mark.run < run) break;
    if (chain !== undefined && mark.previous !== chain) break;
    if (mark.kind === 'drop') {
      run = mark.run;
      chain = mark.crc;
      end += JOURNAL_BLOCK_BYTES;
      continue;
    }
    if (mark.epoch <= lastEpoch) break;
    const extent = { epoch: mark.epoch, position: end + MARK_BYTES, chain: mark.crc };
    const done = yield* walkEpoch(segment, extent, false);
    if (done === undefined) break;
    epochs.push(extent);
    run = mark.run;
    chain = done.chain;
    lastEpoch = mark.epoch;
    end = alignToBlock(done.end);
  }
  return { epochs, end, chain, run, lastEpoch };
}

/** True when a valid mark of `run` or later lies behind `from`: what precedes it was durable. */
export function* findMark(segment: ScannedSegment, from: number, run: number): Scan<boolean> {
  const start = alignToBlock(from);
  for (let at = start; at + MARK_BYTES <= segment.sizeBytes; at += JOURNAL_BLOCK_BYTES) {
    const mark = yield* markAt(segment, at);
    if (mark !== undefined && mark.run >= run) return true;
  }
  return false;
}

/** The mark with which a segment begins. */
export function firstMark(segment: ScannedSegment): ReturnType<typeof markAt> {
  return markAt(segment, JOURNAL_BLOCK_BYTES);
}

/** Yields the operations of an epoch that `scanSegment` found; false when it can not be read. */
export function* readEpoch(segment: ScannedSegment, extent: EpochExtent): Scan<boolean> {
  return (yield* walkEpoch(segment, extent, true)) !== undefined;
}

function* markAt(segment: ScannedSegment, position: number): Scan<ReturnType<typeof decodeMark>> {
  const bytes = yield { kind: 'read', offset: position, length: MARK_BYTES };
  const { nonce, sequence } = segment.header;
  return decodeMark(bytes, { nonce, sequence, position });
}

/** Returns the end and the end record's checksum; undefined when the epoch is not complete. */
function* walkEpoch(
  segment: ScannedSegment,
  extent: EpochExtent,
  wanted: boolean,
): Scan<{ end: number; chain: number } | undefined> {
  const totals = segment.diskSizes.map(() => ({ operations: 0, bytes: 0 }));
  let { position, chain } = extent;
  for (;;) {
    const head = yield { kind: 'read', offset: position, length: RECORD_BYTES };
    const record = decodeRecordHead(head);
    if (record === undefined || record.epoch !== extent.epoch) return undefined;
    const dataBytes = dataBytesOf(record, segment);
    if (dataBytes === undefined) return undefined;
    position += RECORD_BYTES;
    let data: Buffer | undefined;
    if (dataBytes > 0) {
      data = yield { kind: 'read', offset: position, length: dataBytes };
      if (data.length !== dataBytes) return undefined;
      position += dataBytes;
    }
    chain = recordChecksum(chain, head, data);
    if (chain !== record.crc) return undefined;
    if (record.kind === 'end') {
      return data?.equals(encodeTotals(totals)) === true ? { end: position, chain } : undefined;
    }
    const operation = operationOf(record, data);
    count(totals[record.disk], operation);
    if (wanted) yield { kind: 'operation', disk: record.disk, operation };
  }
}

/** How much data follows the head; undefined when no valid record has such a head. */
function dataBytesOf(record: RecordHead, segment: ScannedSegment): number | undefined {
  const { kind, disk, offset, length } = record;
  const { diskSizes } = segment;
  if (kind === 'end') {
    const expected = diskSizes.length * 16;
    return disk === diskSizes.length && length === expected ? expected : undefined;
  }
  const sizeBytes = diskSizes[disk];
  if (sizeBytes === undefined || length === 0 || offset + length > sizeBytes) return undefined;
  if (kind !== 'write') return 0;
  return length <= DISK_DATA_BYTES_MAX ? length : undefined;
}

function operationOf(record: RecordHead, data: Buffer | undefined): DiskOperation {
  const { kind, offset, length } = record;
  if (data !== undefined) return { kind: 'write', offset, data };
  return { kind: kind === 'trim' ? 'trim' : 'zero', offset, length };
}

function count(
  totals: { -readonly [Key in keyof EpochTotals]: number } | undefined,
  operation: DiskOperation,
) {
  if (totals === undefined) return;
  totals.operations += 1;
  totals.bytes += operationLength(operation);
}
