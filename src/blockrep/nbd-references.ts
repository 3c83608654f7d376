/**
 * Large requests of QEMU's whose data are not sent, an extension of ours that native/disk-preload.c
 * and disk-reads.c speak. All is big-endian.
 *
 * A write with the flag `reference` has, in place of the data, a count, 32 bits, and for each piece
 * its offset in guest RAM, 64 bits, and its length, 32 bits. A read with this flag may be answered
 * by a chunk of the usual header that has the flag, too, and, in place of the data, a descriptor of
 * this process and the file's serial number, 32 bits each: the client reads the data itself, at the
 * offset that was asked for. With the flag `whole` the file is the disk for as long as the
 * connection lasts: the client need not ask for what the page cache has of it.
 *
 * Where anybody but the image sees the data of a write they are copied before anything else is
 * done: a guest that writes to its buffer meanwhile must not bring different bytes to the image and
 * to the other host. Otherwise they go to the image from where they are.
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
  /** Writes pieces to the file's `position` on; the bytes written, 0 if that fails. */
  writeOut(pieces: readonly MemoryPiece[], file: number, position: number): number;
}

/** Bytes. */
export interface MemoryPiece {
  readonly offset: number;
  readonly length: number;
}

/** The whole reply to a read. */
export function encodeFileReference(
  read: { readonly cookie: bigint; readonly offset: number; readonly length: number },
  file: { readonly fd: number; readonly serial: number; readonly isWhole: boolean },
): Buffer {
  const head = encodeReadChunk(read.cookie, read);
  const bytes = Buffer.allocUnsafe(head.length + FILE_BYTES);
  head.copy(bytes);
  const { reference, whole } = NBD_COMMAND_FLAG;
  const flags = head.readUInt16BE(NBD_CHUNK_FLAGS_OFFSET) | reference | (file.isWhole ? whole : 0);
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

/** The data of a write, in the client's memory: the client changes nothing before it is answered. */
export class LentData {
  readonly length: number;
  readonly #memory: ClientMemory;
  readonly #pieces: readonly MemoryPiece[];

  private constructor(memory: ClientMemory, pieces: readonly MemoryPiece[], length: number) {
    this.#memory = memory;
    this.#pieces = pieces;
    this.length = length;
  }

  /** Of a write of `length` bytes. Throws ProtocolError. */
  static of(references: Buffer, memory: ClientMemory, length: number): LentData {
    const pieces: MemoryPiece[] = [];
    let total = 0;
    for (let at = COUNT_BYTES; at < references.length; at += PIECE_BYTES) {
      const offset = references.readUInt32BE(at) * 2 ** 32 + references.readUInt32BE(at + 4);
      const piece = references.readUInt32BE(at + 8);
      if (offset + piece > memory.sizeBytes) {
        const known = `${memory.sizeBytes} bytes`;
        throw new ProtocolError(`An NBD write refers to ${offset}+${piece} of ${known}`);
      }
      pieces.push({ offset, length: piece });
      total += piece;
    }
    if (total !== length) {
      throw new ProtocolError(`An NBD write of ${length} bytes refers to ${total}`);
    }
    return new LentData(memory, pieces, length);
  }

  /** Fills `target`, which is as long. */
  copyTo(target: Buffer): void {
    let filled = 0;
    for (const { offset, length } of this.#pieces) {
      this.#memory.copyOut(offset, target, filled, length);
      filled += length;
    }
  }

  /** Without a copy; false: it may have written a part. */
  writeTo(file: number, position: number): boolean {
    return this.#memory.writeOut(this.#pieces, file, position) === this.length;
  }
}
