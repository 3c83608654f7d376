/**
 * The userfaultfd of another process: page faults of its threads come here as messages, and wait
 * until the page has been placed. Every call acts on the memory of the process that opened it.
 *
 * | struct uffd_msg | offset | | struct uffdio_copy | offset |
 * |-----------------|--------|-|--------------------|--------|
 * | event (1 byte)  | 0      | | dst                | 0      |
 * | flags           | 8      | | src (in *this* process) | 8 |
 * | address         | 16     | | len                | 16     |
 * | thread (4 bytes)| 24     | | mode               | 24     |
 * |                 |        | | copy (out)         | 32     |
 *
 * UFFDIO_COPY adds a page to the file behind a shared mapping and maps it, in one step that fails
 * with EEXIST if the file has that page already: it can't overwrite what somebody wrote meanwhile.
 * Sources: userfaultfd(2), ioctl_userfaultfd(2), Linux 6.18 mm/userfaultfd.c, include/uapi/linux/
 * userfaultfd.h; pidfd_getfd(2), which like /proc/<pid>/mem needs the right to trace the process.
 */
import { closeSync } from 'node:fs';
import koffi from 'koffi';
import { assert, PAGE_SIZE_BYTES } from '../lib/index.js';
import { check, libc, SystemCallError } from './libc.js';
import { MemoryMap } from './memory-map.js';
import { Poll } from './poll.js';

const SYS_USERFAULTFD = 323;
const O_CLOEXEC_NONBLOCK = 0x80800;
const UFFDIO_API = 0xc018aa3f;
const UFFD_API = 0xaa;
/** THREAD_ID, WP_HUGETLBFS_SHMEM, WP_UNPOPULATED, WP_ASYNC: as the preload library asks for. */
const FEATURES = 0xb100;
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;
const UFFDIO_REGISTER = 0xc020aa00;
const UFFDIO_UNREGISTER = 0x8010aa01;
const UFFDIO_WAKE = 0x8010aa02;
const UFFDIO_COPY = 0xc028aa03;
const UFFDIO_WRITEPROTECT = 0xc018aa06;
const REGISTER_MODE_MISSING = 1;
const REGISTER_MODE_WP = 2;
/** The new page is write-protected: not yet written, as the trackers see it. */
const COPY_MODE_WP = 2;
const WRITEPROTECT_MODE_WP = 1;
const EVENT_PAGEFAULT = 0x12;
const FLAG_WRITE = 1;

const EAGAIN = 11;
const EEXIST = 17;

const MESSAGE_BYTES = 32;
/** One fault per thread at a time, so this many are there only with as many vCPUs. */
const MESSAGES_MAX = 128;
/** Placed by one call at most: it keeps this thread for some 0.2 ms. */
const PLACED_BYTES = 256 * PAGE_SIZE_BYTES;
/** Memory that the kernel reads and writes by address. */
const ARGUMENT_AT = 0;
const MESSAGES_AT = PAGE_SIZE_BYTES;
const ZEROES_AT = 2 * PAGE_SIZE_BYTES;
const MEMORY_BYTES = 3 * PAGE_SIZE_BYTES;

const syscall = libc.func('long syscall(long number, long a, long b, long c)') as (
  number: number,
  a: number,
  b: number,
  c: number,
) => number;
const ioctl = libc.func('int ioctl(int fd, unsigned long request, uintptr_t argument)') as (
  fd: number,
  request: number,
  argument: number,
) => number;
const readFile = libc.func('long read(int fd, uintptr_t buffer, unsigned long size)') as (
  fd: number,
  address: number,
  size: number,
) => number;

/** A thread waits for the page at `address`, which is rounded down to a page. */
export interface PageFault {
  readonly address: number;
  readonly write: boolean;
  /** Of the thread, as the faulting process numbers it; under KVM it may be the kernel's own. */
  readonly threadId: number;
}

/** Addresses are of the process, multiples of the page size like all lengths. */
export class Userfaultfd {
  readonly #fd: number;
  readonly #faultsFrom: number;
  readonly #memory = MemoryMap.anonymous(MEMORY_BYTES);
  readonly #argument: Buffer;
  #poll: Poll | undefined;
  #closed = false;
  readonly #owned: boolean;

  /**
   * Takes the descriptor over, unless it is another thread's: it is good in every thread. With
   * `faultsFrom` faults are read from there, as `encodeFault` gives them, by whoever rehearses.
   */
  constructor(
    fd: number,
    { owned, faultsFrom = fd }: { owned: boolean; faultsFrom?: number | undefined } = {
      owned: true,
    },
  ) {
    this.#fd = fd;
    this.#faultsFrom = faultsFrom;
    this.#owned = owned;
    this.#argument = this.#view(ARGUMENT_AT, PAGE_SIZE_BYTES);
  }

  /** One for this process's own memory. */
  static open(): Userfaultfd {
    const fd = syscall(SYS_USERFAULTFD, O_CLOEXEC_NONBLOCK, 0, 0);
    const userfaultfd = new Userfaultfd(check('userfaultfd', fd));
    try {
      userfaultfd.#put(UFFD_API, FEATURES, 0);
      userfaultfd.#call('UFFDIO_API', UFFDIO_API);
      return userfaultfd;
    } catch (error) {
      userfaultfd.close();
      throw error;
    }
  }

  /** A duplicate of descriptor `fd` of process `pid`; the caller closes it. */
  static duplicate(pid: number, fd: number): number {
    const pidfd = check('pidfd_open', syscall(SYS_PIDFD_OPEN, pid, 0, 0));
    try {
      return check('pidfd_getfd', syscall(SYS_PIDFD_GETFD, pidfd, fd, 0));
    } finally {
      closeSync(pidfd);
    }
  }

  /** Its number, for another thread; one of them closes it. */
  get fd(): number {
    return this.#fd;
  }

  /** From now on it is known which pages are written. */
  track(address: number, length: number): void {
    this.#register(address, length, REGISTER_MODE_WP);
  }

  /** From now on who touches a page that the file has not waits. Writes are tracked as before. */
  catchMissing(address: number, length: number): void {
    this.#register(address, length, REGISTER_MODE_MISSING | REGISTER_MODE_WP);
  }

  /**
   * Nobody waits any more, and who does goes on. Writes are tracked again, but all pages count as
   * written: there is no way to end the one alone, as registering for less changes nothing.
   */
  trackOnly(address: number, length: number): void {
    this.#put(address, length);
    this.#call('UFFDIO_UNREGISTER', UFFDIO_UNREGISTER);
    this.track(address, length);
  }

  /** The pages count as not written. */
  protect(address: number, length: number): void {
    this.#put(address, length, WRITEPROTECT_MODE_WP);
    this.#call('UFFDIO_WRITEPROTECT', UFFDIO_WRITEPROTECT);
  }

  /**
   * Places pages where the file has none, not counted as written, and wakes who waits for them.
   * Gives the number of bytes placed: less than all where the next page was there already.
   */
  place(address: number, bytes: Buffer): number {
    const source = Number(koffi.address(bytes));
    let at = 0;
    while (at < bytes.length) {
      const length = Math.min(bytes.length - at, PLACED_BYTES);
      // Less than all does not say why; the next call, from the page on that it ended at, does.
      const placed = this.#copy(address + at, source + at, length);
      if (placed === 0) break;
      at += placed;
    }
    return at;
  }

  /** The same with one page of zeroes; false if the page was there already. */
  placeZero(address: number): boolean {
    return this.#copy(address, this.#memory.address + ZEROES_AT, PAGE_SIZE_BYTES) > 0;
  }

  /** Who waits for pages there tries again. */
  wake(address: number, length: number): void {
    this.#put(address, length);
    this.#call('UFFDIO_WAKE', UFFDIO_WAKE);
  }

  /** Calls `callback` from this thread's event loop whenever threads have come to wait. */
  onFaults(callback: (faults: PageFault[]) => void): void {
    const wake = (): void => {
      const faults = this.#readFaults();
      if (faults.length > 0) callback(faults);
    };
    this.#poll = new Poll(this.#faultsFrom, wake);
    this.#poll.watch({ readable: true, writable: false });
  }

  /**
   * Whoever waits goes on once the process has closed its own descriptor, too. A descriptor that is
   * another thread's is used no more. Idempotent.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#poll?.close();
    this.#poll = undefined;
    if (this.#owned) closeSync(this.#fd);
    this.#memory.close();
  }

  #register(address: number, length: number, mode: number): void {
    this.#put(address, length, mode, 0);
    this.#call('UFFDIO_REGISTER', UFFDIO_REGISTER);
  }

  #copy(address: number, source: number, length: number): number {
    this.#put(address, source, length, COPY_MODE_WP, 0);
    if (ioctl(this.#fd, UFFDIO_COPY, this.#memory.address + ARGUMENT_AT) === 0) return length;
    const errno = koffi.errno();
    const copied = Number(this.#argument.readBigInt64LE(32));
    if (errno === EEXIST) return 0;
    if (errno === EAGAIN && copied > 0) return copied;
    throw new SystemCallError('UFFDIO_COPY', errno);
  }

  #readFaults(): PageFault[] {
    if (this.#closed) return [];
    const size = MESSAGES_MAX * MESSAGE_BYTES;
    const count = readFile(this.#faultsFrom, this.#memory.address + MESSAGES_AT, size);
    // Taken back meanwhile, by a wake or by the thread's end.
    if (count < 0 && koffi.errno() === EAGAIN) return [];
    check('read from a userfaultfd', count);
    return decodeFaults(this.#view(MESSAGES_AT, count));
  }

  #put(...values: readonly number[]): void {
    assert(!this.#closed, 'A closed userfaultfd was used');
    values.forEach((value, i) => {
      this.#argument.writeUInt32LE(value % 0x1_0000_0000, i * 8);
      this.#argument.writeUInt32LE(Math.floor(value / 0x1_0000_0000), i * 8 + 4);
    });
  }

  #call(name: string, request: number): void {
    check(name, ioctl(this.#fd, request, this.#memory.address + ARGUMENT_AT));
  }

  #view(offset: number, length: number): Buffer {
    const view = this.#memory.view(offset, length);
    assert(view !== undefined, 'The memory is smaller than a window');
    return view;
  }
}

/** The faults among these messages: no other kind was asked for. */
export function decodeFaults(bytes: Buffer): PageFault[] {
  const faults: PageFault[] = [];
  for (let at = 0; at + MESSAGE_BYTES <= bytes.length; at += MESSAGE_BYTES) {
    if (bytes[at] !== EVENT_PAGEFAULT) continue;
    const address = Number(bytes.readBigUInt64LE(at + 16));
    faults.push({
      address: address - (address % PAGE_SIZE_BYTES),
      write: (bytes.readUInt32LE(at + 8) & FLAG_WRITE) !== 0,
      threadId: bytes.readUInt32LE(at + 24),
    });
  }
  return faults;
}

/** The message of a write to the page at `address`; of no thread. */
export function encodeFault(address: number): Buffer {
  const message = Buffer.alloc(MESSAGE_BYTES);
  message[0] = EVENT_PAGEFAULT;
  message.writeUInt32LE(FLAG_WRITE, 8);
  message.writeBigUInt64LE(BigInt(address), 16);
  return message;
}
