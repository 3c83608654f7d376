/**
 * Large requests of QEMU's whose data are not sent, an extension of ours that native/disk-preload.c
 * and disk-reads.c speak. All is big-endian.
 *
 * A write with the flag `reference` has, in place of the data, a count, 32 bits, and for each piece
 * its offset in guest RAM, 64 bits, and its length, 32 bits. A read with this flag may be answered
 * by a chunk of the usual header that has the flag, too, and, in place of the data, a descriptor of
 * this process and the file's serial number, 32 bits each: the client reads the data itself, at the
 * offset that was asked for.
 *
 * The data of a write are copied before anything else is done: a guest that writes to its buffer
 * meanwhile must not bring different bytes to the image and to the other host.
 */
import { ProtocolError } from '../lib/index.js';
import { NBD_REFERENCES_MAX } from './limits.js';
import { encodeReadChunk, NBD_CHUNK_FLAGS_OFFSET, NBD_COMMAND_FLAG } from './nbd-wire.js';

const COUNT_BYTES = 4;
const PIECE_BYTES = 12;
const FILE_BYTES = 8;

/** Where the data are. */
export interface ClientMemory {
  readonly sizeBytes: number;
  /** Copies `length` bytes from `offset` on to `target`, to its place `at`. */
  copyOut(offset: number, target: Buffer, at: number, length: number): void;
}

/** The whole reply to a read. */
export function encodeFileReference(
  read: { readonly cookie: bigint; readonly offset: number; readonly length: number },
  file: { readonly fd: number; readonly serial: number },
): Buffer {
  const head = encodeReadChunk(read.cookie, read);
  const bytes = Buffer.allocUnsafe(head.length + FILE_BYTES);
  head.copy(bytes);
  const flags = head.readUInt16BE(NBD_CHUNK_FLAGS_OFFSET) | NBD_COMMAND_FLAG.reference;
  bytes.writeUInt16BE(flags, NBD_CHUNK_FLAGS_OFFSET);
  bytes.writeUInt32BE(file.fd, head.length);
  bytes.writeUInt32BE(file.serial, head.length + 4);
  return bytes;
}

/** How long the references at `at` are, bytes; undefined: the count is not all there yet. */
export function referencesLength(bytes: Buffer, at: number): number | undefined {
  if (bytes.length - at < COUNT_BYTES) return undefined;
  const count = bytes.readUInt32BE(at);
  if (count === 0 || count > NBD_REFERENCES_MAX) {
    throw new ProtocolError(`An NBD write refers to ${count} pieces of memory`);
  }
  return COUNT_BYTES + count * PIECE_BYTES;
}

/** Fills `target` with what all of `references` refer to. Throws ProtocolError before that. */
export function copyReferences(references: Buffer, memory: ClientMemory, target: Buffer): void {
  checkReferences(references, memory.sizeBytes, target.length);
  let filled = 0;
  for (let at = COUNT_BYTES; at < references.length; at += PIECE_BYTES) {
    const length = references.readUInt32BE(at + 8);
    memory.copyOut(Number(references.readBigUInt64BE(at)), target, filled, length);
    filled += length;
  }
}

function checkReferences(references: Buffer, memoryBytes: number, length: number): void {
  let total = 0;
  for (let at = COUNT_BYTES; at < references.length; at += PIECE_BYTES) {
    const offset = Number(references.readBigUInt64BE(at));
    const piece = references.readUInt32BE(at + 8);
    if (offset + piece > memoryBytes) {
      throw new ProtocolError(`An NBD write refers to ${offset}+${piece} of ${memoryBytes} bytes`);
    }
    total += piece;
  }
  if (total !== length) {
    throw new ProtocolError(`An NBD write of ${length} bytes refers to ${total}`);
  }
}
