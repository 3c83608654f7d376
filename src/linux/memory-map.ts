/**
 * Memory mapped into this process, seen as Buffers. One mapping, viewed through windows of 1 GiB
 * (a single view of several GiB aborts the process), each created once and sliced.
 *
 * `close` does not unmap: a Buffer that someone still holds would then crash the process. It lays
 * empty memory over the range, which releases the file and its pages; what stays is address space.
 */
import koffi from 'koffi';
import { assert } from '../lib/index.js';
import { check, errno, libc, SystemCallError } from './libc.js';

const PROT_READ = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;
const WINDOW_BYTES = 2 ** 30;

const mmap = libc.func(
  'uintptr_t mmap(uintptr_t at, size_t length, int protection, int flags, int fd, int64_t offset)',
) as (
  at: number,
  length: number,
  protection: number,
  flags: number,
  fd: number,
  offset: number,
) => number | bigint;

const munmap = libc.func('int munmap(uintptr_t at, size_t length)') as (
  at: number,
  length: number,
) => number;

function map(
  at: number,
  sizeBytes: number,
  flags: number,
  fd: number,
  protection = PROT_READ_WRITE,
): number {
  const address = mmap(at, sizeBytes, protection, flags, fd, 0);
  if (BigInt(address) === MAP_FAILED) throw new SystemCallError('mmap', errno());
  return Number(address);
}

/** The address of the file's first `sizeBytes`, to be read; `unmap` it then. */
export function mapToRead(fd: number, sizeBytes: number): number {
  return map(0, sizeBytes, MAP_SHARED, fd, PROT_READ);
}

export function unmap(address: number, sizeBytes: number): void {
  check('munmap', munmap(address, sizeBytes));
}

export class MemoryMap {
  readonly address: number;
  readonly sizeBytes: number;
  readonly #windows: Buffer[] = [];
  #closed = false;

  private constructor(address: number, sizeBytes: number) {
    this.address = address;
    this.sizeBytes = sizeBytes;
    for (let at = 0; at < sizeBytes; at += WINDOW_BYTES) {
      const length = Math.min(WINDOW_BYTES, sizeBytes - at);
      this.#windows.push(Buffer.from(koffi.view(BigInt(address + at), length)));
    }
  }

  /** The file's first `sizeBytes`, shared with everyone else who maps it. */
  static ofFile(fd: number, sizeBytes: number): MemoryMap {
    return new MemoryMap(map(0, sizeBytes, MAP_SHARED, fd), sizeBytes);
  }

  /** Zeroes that only this process sees; memory is used from the first write to a page on. */
  static anonymous(sizeBytes: number): MemoryMap {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    return new MemoryMap(map(0, sizeBytes, flags, -1), sizeBytes);
  }

  /** The bytes themselves, no copy; undefined where the range crosses a multiple of 1 GiB. */
  view(offset: number, length: number): Buffer | undefined {
    this.#checkRange(offset, length);
    const start = offset % WINDOW_BYTES;
    if (start + length > WINDOW_BYTES) return undefined;
    return this.#windows[Math.floor(offset / WINDOW_BYTES)]?.subarray(start, start + length);
  }

  /** Fills `target` from `offset` on. */
  copyOut(offset: number, target: Buffer): void {
    this.#eachWindow(offset, target.length, (window, at) => {
      window.copy(target, at);
    });
  }

  /** Writes `bytes` from `offset` on. */
  write(offset: number, bytes: Buffer): void {
    this.#eachWindow(offset, bytes.length, (window, at) => {
      bytes.copy(window, 0, at, at + window.length);
    });
  }

  /** Releases the memory; views become zeroes. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    map(this.address, this.sizeBytes, flags, -1);
  }

  #eachWindow(offset: number, length: number, visit: (window: Buffer, at: number) => void): void {
    this.#checkRange(offset, length);
    for (let at = 0; at < length; ) {
      const start = (offset + at) % WINDOW_BYTES;
      const window = this.#windows[Math.floor((offset + at) / WINDOW_BYTES)] as Buffer;
      const piece = window.subarray(start, start + length - at);
      visit(piece, at);
      at += piece.length;
    }
  }

  #checkRange(offset: number, length: number): void {
    assert(!this.#closed, 'A closed memory map was used');
    assert(
      offset >= 0 && length >= 0 && offset + length <= this.sizeBytes,
      `Range ${offset}+${length} exceeds a memory map of ${this.sizeBytes} bytes`,
    );
  }
}
