/**
 * Messages of the disk channel between primary and secondary: payloads only, the frame around them
 * carries the type number. Big-endian; `disk` is the index of the disk in the machine definition.
 *
 *   0x0130 write      epoch u64, disk u16, offset u64, data (1 byte to 1 MiB, to the end)
 *   0x0131 zero       epoch u64, disk u16, offset u64, length u64
 *   0x0132 trim       epoch u64, disk u16, offset u64, length u64
 *   0x0133 sync       disk u16, offset u64, data             initial synchronisation
 *   0x0134 syncZero   disk u16, offset u64, length u64       initial synchronisation
 *   0x0135 epochEnd   epoch u64, disk u16, operations u64, bytes u64
 *
 * 0x0136 to 0x0138 are in resync/resync-wire.ts.
 *
 * u64 fields are at most 2^53 - 1. An offset plus a length must be so too; whether they lie inside
 * the disk is for the receiver to check, who knows its size.
 */
import { ByteReader, ByteWriter, ProtocolError, unreachable } from '../lib/index.js';
import type { DiskOperation } from './disk-operation.js';
import { DISK_DATA_BYTES_MAX, DISKS_MAX } from './limits.js';

export const DISK_MESSAGE_TYPE = {
  write: 0x0130,
  zero: 0x0131,
  trim: 0x0132,
  sync: 0x0133,
  syncZero: 0x0134,
  epochEnd: 0x0135,
} as const;

/** `data` of a decoded message is borrowed from its payload. */
export type DiskMessage =
  | { kind: 'write'; epoch: number; disk: number; offset: number; data: Buffer }
  | { kind: 'zero' | 'trim'; epoch: number; disk: number; offset: number; length: number }
  | { kind: 'sync'; disk: number; offset: number; data: Buffer }
  | { kind: 'syncZero'; disk: number; offset: number; length: number }
  | { kind: 'epochEnd'; epoch: number; disk: number; operations: number; bytes: number };

/** The payload is the parts one after the other; the second, if any, is the message's own data. */
export interface EncodedDiskMessage {
  readonly type: number;
  readonly parts: Buffer[];
}

export function encodeDiskMessage(message: DiskMessage): EncodedDiskMessage {
  const type = DISK_MESSAGE_TYPE[message.kind];
  const head = new ByteWriter(34);
  switch (message.kind) {
    case 'write':
      head.uint53(message.epoch).uint16(message.disk).uint53(message.offset);
      return { type, parts: [head.finish(), message.data] };
    case 'zero':
    case 'trim':
      head.uint53(message.epoch).uint16(message.disk);
      head.uint53(message.offset).uint53(message.length);
      return { type, parts: [head.finish()] };
    case 'sync':
      head.uint16(message.disk).uint53(message.offset);
      return { type, parts: [head.finish(), message.data] };
    case 'syncZero':
      head.uint16(message.disk).uint53(message.offset).uint53(message.length);
      return { type, parts: [head.finish()] };
    case 'epochEnd':
      head.uint53(message.epoch).uint16(message.disk);
      head.uint53(message.operations).uint53(message.bytes);
      return { type, parts: [head.finish()] };
    default:
      return unreachable(message);
  }
}

/** Throws ProtocolError on an unknown type and on anything malformed. */
export function decodeDiskMessage(type: number, payload: Buffer): DiskMessage {
  const reader = new ByteReader(payload);
  switch (type) {
    case DISK_MESSAGE_TYPE.write: {
      const epoch = reader.uint53();
      const disk = readDisk(reader);
      return { kind: 'write', epoch, disk, ...readData(reader) };
    }
    case DISK_MESSAGE_TYPE.zero:
    case DISK_MESSAGE_TYPE.trim: {
      const kind = type === DISK_MESSAGE_TYPE.zero ? 'zero' : 'trim';
      const epoch = reader.uint53();
      const disk = readDisk(reader);
      return { kind, epoch, disk, ...readRange(reader) };
    }
    case DISK_MESSAGE_TYPE.sync:
      return { kind: 'sync', disk: readDisk(reader), ...readData(reader) };
    case DISK_MESSAGE_TYPE.syncZero:
      return { kind: 'syncZero', disk: readDisk(reader), ...readRange(reader) };
    case DISK_MESSAGE_TYPE.epochEnd: {
      const epoch = reader.uint53();
      const disk = readDisk(reader);
      const operations = reader.uint53();
      const bytes = reader.uint53();
      reader.end();
      return { kind: 'epochEnd', epoch, disk, operations, bytes };
    }
    default:
      throw new ProtocolError(`Unknown disk message type 0x${type.toString(16)}`);
  }
}

/** The operation in pieces that fit into one message each, in order. */
export function splitOperation(operation: DiskOperation): DiskOperation[] {
  if (operation.kind !== 'write' || operation.data.length <= DISK_DATA_BYTES_MAX) {
    return [operation];
  }
  const pieces: DiskOperation[] = [];
  for (let at = 0; at < operation.data.length; at += DISK_DATA_BYTES_MAX) {
    const data = operation.data.subarray(at, at + DISK_DATA_BYTES_MAX);
    pieces.push({ kind: 'write', offset: operation.offset + at, data });
  }
  return pieces;
}

function readDisk(reader: ByteReader): number {
  const disk = reader.uint16();
  if (disk >= DISKS_MAX) throw new ProtocolError(`Disk ${disk} is not below ${DISKS_MAX}`);
  return disk;
}

function readRange(reader: ByteReader): { offset: number; length: number } {
  const offset = reader.uint53();
  const length = reader.uint53();
  reader.end();
  checkRange(offset, length);
  return { offset, length };
}

function readData(reader: ByteReader): { offset: number; data: Buffer } {
  const offset = reader.uint53();
  if (reader.remaining > DISK_DATA_BYTES_MAX) {
    throw new ProtocolError(
      `${reader.remaining} bytes of disk data exceed the limit of ${DISK_DATA_BYTES_MAX}`,
    );
  }
  checkRange(offset, reader.remaining);
  return { offset, data: reader.rest() };
}

function checkRange(offset: number, length: number): void {
  if (length === 0) throw new ProtocolError('A disk message covers nothing');
  if (!Number.isSafeInteger(offset + length)) {
    throw new ProtocolError(`A disk range at ${offset} of ${length} bytes is out of range`);
  }
}
