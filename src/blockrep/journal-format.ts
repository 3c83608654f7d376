/**
 * The journal's bytes: what a secondary keeps of its guest's disk writes until they are surely in
 * the images. Two segment files; big-endian. All of it is pure; journal-scan.ts reads it as a
 * whole, journal-shell.ts writes it.
 *
 * Block 0 of a file (4096 bytes) is its header. Its first sector is written as a whole:
 *
 *     0  magic "COLOJRNL"
 *     8  version u32, 1
 *    12  flags u32: 1 the base epoch is known, 2 closed in good order
 *    16  nonce, 8 random bytes, new at every opening
 *    24  sequence u64: the two files' differ by one; the lower is the older
 *    32  base epoch u64: the images held all of it, durably, when this was written
 *    40  preallocated size u64: a shorter file has been cut
 *   508  CRC-32C of bytes 0 to 507
 *   512  vm (u32 length, UTF-8), disks u16, size of each u64    whose journal it is
 *  4092  CRC-32C of bytes 512 to 4091
 *
 * From block 1 on epochs follow each other, each from the start of a block, so that nothing durable
 * is ever written again. An epoch is a mark, records, and an end record. A mark (56 bytes):
 *
 *     0  magic "JMRK"         4  kind u8: 1 begin, 2 drop      5  zeroes
 *     8  nonce, 8 bytes      16  sequence u64                 24  its own position in the file u64
 *    32  run u64             40  epoch u64                    48  chain before it u32
 *    52  CRC-32C of bytes 0 to 51
 *
 * A mark stands for itself: it is found and trusted wherever it lies. `run` counts the rewinds:
 * a drop mark takes the place of a dropped epoch's begin, and marks of a lower run are stale.
 * A record (36 bytes, then its data):
 *
 *     0  magic "JREC"         4  kind u8: 1 write, 2 zero, 3 trim, 4 end      5  zero u8
 *     6  disk u16 (end: number of disks)                       8  epoch u64
 *    16  offset u64          24  length u64 (of data, if it has any)
 *    32  CRC-32C of bytes 0 to 31 and the data, continued from the record or mark before it
 *
 * The data of an end record is, for each disk, operations u64 and bytes u64. Since every checksum
 * continues the one before, old bytes behind a rewind are never taken for a continuation.
 */
import { ByteReader, ByteWriter, crc32c, ProtocolError } from '../lib/index.js';
import type { EpochTotals } from './disk-operation.js';
import { DISKS_MAX, JOURNAL_BLOCK_BYTES, JOURNAL_VM_BYTES_MAX } from './limits.js';

const HEADER_MAGIC = 'COLOJRNL';
const HEADER_VERSION = 1;
const FLAG_BASE = 1;
const FLAG_CLEAN = 2;
const HEADER_CRC_AT = 508;
const IDENTITY_AT = 512;
const IDENTITY_CRC_AT = JOURNAL_BLOCK_BYTES - 4;

const MARK_MAGIC = 0x4a4d524b;
const RECORD_MAGIC = 0x4a524543;

export const JOURNAL_NONCE_BYTES = 8;
export const MARK_BYTES = 56;
export const RECORD_BYTES = 36;

/** Where a record's data is. */
export interface JournalLocation {
  /** Index of the file. */
  readonly segment: number;
  /** In the file, bytes. */
  readonly position: number;
}

/** Whose journal it is. */
export interface JournalIdentity {
  readonly vm: string;
  readonly diskSizes: readonly number[];
}

export interface JournalHeader {
  readonly nonce: Buffer;
  readonly sequence: number;
  /** Undefined: what the images hold is not known. */
  readonly baseEpoch: number | undefined;
  /** Nothing was written behind it. */
  readonly clean: boolean;
  /** Preallocated size of the file. */
  readonly sizeBytes: number;
}

/** What block 0 of a file turned out to be. */
export type DecodedHeader =
  | { readonly kind: 'blank' }
  | { readonly kind: 'header'; readonly header: JournalHeader }
  | { readonly kind: 'bad'; readonly reason: string };

/** Block 0 of a file. */
export function encodeHeader(header: JournalHeader, identity: JournalIdentity): Buffer {
  const block = Buffer.alloc(JOURNAL_BLOCK_BYTES);
  const flags = (header.baseEpoch === undefined ? 0 : FLAG_BASE) | (header.clean ? FLAG_CLEAN : 0);
  const sector = new ByteWriter()
    .bytes(Buffer.from(HEADER_MAGIC, 'latin1'))
    .uint32(HEADER_VERSION)
    .uint32(flags)
    .bytes(header.nonce)
    .uint53(header.sequence)
    .uint53(header.baseEpoch ?? 0)
    .uint53(header.sizeBytes);
  sector.finish().copy(block);
  block.writeUInt32BE(crc32c(block.subarray(0, HEADER_CRC_AT)), HEADER_CRC_AT);
  const owner = new ByteWriter(IDENTITY_CRC_AT - IDENTITY_AT).text(identity.vm);
  owner.uint16(identity.diskSizes.length);
  for (const sizeBytes of identity.diskSizes) owner.uint53(sizeBytes);
  owner.finish().copy(block, IDENTITY_AT);
  block.writeUInt32BE(crc32c(block.subarray(IDENTITY_AT, IDENTITY_CRC_AT)), IDENTITY_CRC_AT);
  return block;
}

/** The first sector of block 0. Zeroes are a file that was made and never used. */
export function decodeHeader(block: Buffer): DecodedHeader {
  const sector = block.subarray(0, IDENTITY_AT);
  if (sector.every((byte) => byte === 0)) return { kind: 'blank' };
  if (sector.toString('latin1', 0, 8) !== HEADER_MAGIC) {
    return { kind: 'bad', reason: 'it does not begin as a journal' };
  }
  const version = sector.readUInt32BE(8);
  if (version !== HEADER_VERSION) {
    return { kind: 'bad', reason: `its version is ${version}, only ${HEADER_VERSION} is known` };
  }
  if (crc32c(sector.subarray(0, HEADER_CRC_AT)) !== sector.readUInt32BE(HEADER_CRC_AT)) {
    return { kind: 'bad', reason: 'the checksum of its header is wrong' };
  }
  const flags = sector.readUInt32BE(12);
  const reader = new ByteReader(sector.subarray(16));
  const nonce = Buffer.from(reader.bytes(JOURNAL_NONCE_BYTES));
  const sequence = reader.uint53();
  const base = reader.uint53();
  const sizeBytes = reader.uint53();
  const baseEpoch = (flags & FLAG_BASE) === 0 ? undefined : base;
  const clean = (flags & FLAG_CLEAN) !== 0;
  return { kind: 'header', header: { nonce, sequence, baseEpoch, clean, sizeBytes } };
}

/** Whose journal it is, from block 0; undefined when that part is damaged. */
export function decodeIdentity(block: Buffer): JournalIdentity | undefined {
  const part = block.subarray(IDENTITY_AT, IDENTITY_CRC_AT);
  if (crc32c(part) !== block.readUInt32BE(IDENTITY_CRC_AT)) return undefined;
  try {
    const reader = new ByteReader(part);
    const vm = reader.text(JOURNAL_VM_BYTES_MAX);
    const count = reader.uint16();
    if (count > DISKS_MAX) return undefined;
    return { vm, diskSizes: Array.from({ length: count }, () => reader.uint53()) };
  } catch (error) {
    if (error instanceof ProtocolError) return undefined;
    throw error;
  }
}

/** Where a mark or a record belongs: those of another place or time are not taken for valid. */
export interface JournalPlace {
  readonly nonce: Buffer;
  readonly sequence: number;
  readonly position: number;
}

export interface JournalMark {
  readonly kind: 'begin' | 'drop';
  readonly run: number;
  readonly epoch: number;
  /** Checksum of the last end record or drop mark before it; 0 where the journal begins. */
  readonly previous: number;
}

export function encodeMark(place: JournalPlace, mark: JournalMark): Buffer {
  const bytes = new ByteWriter(MARK_BYTES)
    .uint32(MARK_MAGIC)
    .uint32(mark.kind === 'begin' ? 0x0100_0000 : 0x0200_0000)
    .bytes(place.nonce)
    .uint53(place.sequence)
    .uint53(place.position)
    .uint53(mark.run)
    .uint53(mark.epoch)
    .uint32(mark.previous);
  return bytes.uint32(crc32c(bytes.finish())).finish();
}

/** The mark and its checksum, which the first record continues; undefined when it is none. */
export function decodeMark(
  bytes: Buffer,
  place: JournalPlace,
): (JournalMark & { readonly crc: number }) | undefined {
  if (bytes.length < MARK_BYTES || bytes.readUInt32BE(0) !== MARK_MAGIC) return undefined;
  const crc = bytes.readUInt32BE(MARK_BYTES - 4);
  if (crc32c(bytes.subarray(0, MARK_BYTES - 4)) !== crc) return undefined;
  const reader = new ByteReader(bytes.subarray(4, MARK_BYTES));
  const kind = reader.uint32();
  const nonce = reader.bytes(JOURNAL_NONCE_BYTES);
  const sequence = reader.uint53();
  const position = reader.uint53();
  if (!nonce.equals(place.nonce)) return undefined;
  if (sequence !== place.sequence || position !== place.position) return undefined;
  const [run, epoch, previous] = [reader.uint53(), reader.uint53(), reader.uint32()];
  return { kind: kind === 0x0100_0000 ? 'begin' : 'drop', run, epoch, previous, crc };
}

const KINDS = ['write', 'zero', 'trim', 'end'] as const;

/** What a record's first 36 bytes say; its data follows. */
export interface RecordHead {
  readonly kind: (typeof KINDS)[number];
  /** End: how many disks there are. */
  readonly disk: number;
  readonly epoch: number;
  readonly offset: number;
  readonly length: number;
  /** As found, not checked yet. */
  readonly crc: number;
}

/** Returns the head, with the checksum over it and `data` continued from `chain`. */
export function encodeRecord(
  chain: number,
  record: Omit<RecordHead, 'crc'>,
  data: Buffer | undefined,
): { readonly head: Buffer; readonly crc: number } {
  const writer = new ByteWriter(RECORD_BYTES)
    .uint32(RECORD_MAGIC)
    .uint8(KINDS.indexOf(record.kind) + 1)
    .uint8(0)
    .uint16(record.disk)
    .uint53(record.epoch)
    .uint53(record.offset)
    .uint53(record.length);
  const crc = recordChecksum(chain, writer.finish(), data);
  return { head: writer.uint32(crc).finish(), crc };
}

/** Undefined when it can be no record's head. Nothing in it is trusted before the checksum. */
export function decodeRecordHead(bytes: Buffer): RecordHead | undefined {
  if (bytes.length < RECORD_BYTES || bytes.readUInt32BE(0) !== RECORD_MAGIC) return undefined;
  const kind = KINDS[bytes.readUInt8(4) - 1];
  if (kind === undefined || bytes.readUInt8(5) !== 0) return undefined;
  // Values beyond 2^53 must not throw here: these may be any bytes.
  if ([8, 16, 24].some((at) => bytes.readUInt32BE(at) > 0x1f_ffff)) return undefined;
  const reader = new ByteReader(bytes.subarray(6, RECORD_BYTES));
  const disk = reader.uint16();
  const [epoch, offset, length] = [reader.uint53(), reader.uint53(), reader.uint53()];
  return { kind, disk, epoch, offset, length, crc: reader.uint32() };
}

/** What the CRC field of a record must be. `head` may hold the field itself. */
export function recordChecksum(chain: number, head: Buffer, data: Buffer | undefined): number {
  const crc = crc32c(head.subarray(0, RECORD_BYTES - 4), chain);
  return data === undefined ? crc : crc32c(data, crc);
}

export function encodeTotals(totals: readonly EpochTotals[]): Buffer {
  const writer = new ByteWriter(totals.length * 16);
  for (const { operations, bytes } of totals) writer.uint53(operations).uint53(bytes);
  return writer.finish();
}

/** The next start of a block at or after `position`. */
export function alignToBlock(position: number): number {
  return Math.ceil(position / JOURNAL_BLOCK_BYTES) * JOURNAL_BLOCK_BYTES;
}
