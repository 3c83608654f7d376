/**
 * Memory that the process at the other end of a unix socket shares with us: a memory file among its
 * descriptors, mapped here to be read. man unix(7) (SO_PEERCRED), memfd_create(2), F_GET_SEALS(2).
 */
import { closeSync, fstatSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { assert } from '../lib/index.js';
import { check, fcntl, libc, SystemCallError } from './libc.js';
import { mapToRead, unmap } from './memory-map.js';

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const F_SEAL_SHRINK = 2;
const EPERM = 1;
const IOV_MAX = 1024;

const getsockopt = libc.func(
  'int getsockopt(int fd, int level, int option, void *value, void *size)',
) as (fd: number, level: number, option: number, value: Uint8Array, size: Uint8Array) => number;
const memcpy = libc.func('uintptr_t memcpy(uintptr_t to, uintptr_t from, size_t size)') as (
  to: number,
  from: number,
  size: number,
) => number | bigint;

const pwritev = libc.func(
  'long pwritev(int fd, uintptr_t vector, int count, int64_t position)',
) as (fd: number, vector: number, count: number, position: number) => number | bigint;

/** Of struct iovec: base and length, u64 each, the lower half first. */
const vector = new Uint32Array(4 * IOV_MAX);
const vectorAddress = Number(koffi.address(vector));

/** The process that connected, or listened, at the other end. Throws SystemCallError. */
export function peerProcess(socketFd: number): number {
  const credentials = new Int32Array(3);
  const size = new Uint32Array([credentials.byteLength]);
  const bytes = new Uint8Array(credentials.buffer);
  const result = getsockopt(socketFd, SOL_SOCKET, SO_PEERCRED, bytes, new Uint8Array(size.buffer));
  check('getsockopt SO_PEERCRED', result);
  return credentials[0] ?? 0;
}

export class PeerMemory {
  readonly sizeBytes: number;
  readonly #address: number;
  #closed = false;

  private constructor(address: number, sizeBytes: number) {
    this.#address = address;
    this.sizeBytes = sizeBytes;
  }

  /**
   * What that process has as `descriptor`: a memory file that can't be made smaller, as a read
   * beyond its end would end this process. Throws the system's errors.
   */
  static open(pid: number, descriptor: number): PeerMemory {
    const fd = openSync(`/proc/${pid}/fd/${descriptor}`, 'r');
    try {
      const seals = fcntl(fd, 'F_GET_SEALS');
      if ((seals & F_SEAL_SHRINK) === 0) throw new SystemCallError('F_SEAL_SHRINK', EPERM);
      const sizeBytes = fstatSync(fd).size;
      return new PeerMemory(mapToRead(fd, sizeBytes), sizeBytes);
    } finally {
      closeSync(fd);
    }
  }

  /** Copies `length` bytes from `offset` on to `target`, to its place `at`. */
  copyOut(offset: number, target: Buffer, at: number, length: number): void {
    const from = this.#addressOf(offset, length);
    assert(at >= 0 && at + length <= target.length, 'The target is too small');
    memcpy(Number(koffi.address(target)) + at, from, length);
  }

  /**
   * Writes pieces, offsets and lengths in bytes, to the file's `position` on. Returns the bytes
   * written; 0 if there are too many pieces for one call or it fails: man pwritev(2), IOV_MAX.
   */
  writeOut(
    pieces: readonly { readonly offset: number; readonly length: number }[],
    file: number,
    position: number,
  ): number {
    assert(!this.#closed, 'The memory of the peer is closed');
    if (pieces.length > IOV_MAX) return 0;
    for (const [index, { offset, length }] of pieces.entries()) {
      const address = this.#addressOf(offset, length);
      vector[4 * index] = address % 2 ** 32;
      vector[4 * index + 1] = Math.floor(address / 2 ** 32);
      vector[4 * index + 2] = length % 2 ** 32;
      vector[4 * index + 3] = Math.floor(length / 2 ** 32);
    }
    return Math.max(0, Number(pwritev(file, vectorAddress, pieces.length, position)));
  }

  /** Unmaps it. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    unmap(this.#address, this.sizeBytes);
  }

  /** Of a range that is there. */
  #addressOf(offset: number, length: number): number {
    assert(!this.#closed, 'The memory of the peer is closed');
    assert(
      offset >= 0 && length >= 0 && offset + length <= this.sizeBytes,
      `Range ${offset}+${length} exceeds memory of ${this.sizeBytes} bytes`,
    );
    return this.#address + offset;
  }
}
