/**
 * A file descriptor that gives one packet a read and takes one packet a write: a TAP, or one end of
 * a packet socket pair.
 *
 * Packets come out as *batches*: be32 length + packet, back to back. Reads and writes are plain
 * non-blocking system calls on the calling thread, one a packet: about 0.4 us each for a small
 * packet; `recvmmsg` is no faster, because what it scattered would have to be moved together.
 * Readiness comes from the event loop.
 */
import koffi from 'koffi';
import { fcntl, libc, SystemCallError } from './libc.js';
import { Poll, type PollEvents } from './poll.js';

/** Packets taken per wake-up: enough to spread the cost of one wake-up, below 1 ms of work. */
export const BATCH_PACKETS_MAX = 256;
/**
 * Bytes of one batch: 256 packets of an ordinary MTU fit; a batch ends early before it overflows.
 */
export const PACKET_BATCH_BYTES_MAX = 512 * 1024;

/**
 * IP's largest packet behind an Ethernet header with two VLAN tags and a virtio_net_hdr. A longer
 * one is cut off by the kernel and left out here.
 */
const PACKET_BYTES_MAX = 65_535 + 22 + 10;
const LENGTH_BYTES = 4;

const O_NONBLOCK = 0x800;

const EIO = 5;
const EAGAIN = 11;
const EPIPE = 32;
const EBADFD = 77;
const ECONNRESET = 104;

const readFile = libc.func('long read(int fd, uintptr_t buffer, unsigned long size)') as (
  fd: number,
  address: number,
  size: number,
) => number;
const writeFile = libc.func('long write(int fd, uintptr_t buffer, unsigned long size)') as (
  fd: number,
  address: number,
  size: number,
) => number;
const closeFile = libc.func('int close(int fd)') as (fd: number) => number;

/** Packets of all devices are read here first; what leaves is a copy of the filled part. */
const scratch = Buffer.allocUnsafeSlow(PACKET_BATCH_BYTES_MAX);
const scratchAddress = Number(koffi.address(scratch));

/**
 * Why the device took no more. `full`: no room now (a socket's buffer). `down`: link or peer gone.
 */
export type PacketWriteResult = 'ok' | 'full' | 'down';

/** How far a batch was written: `packets` are done with, up to the offset `end`. */
export interface WrittenBatch {
  readonly packets: number;
  readonly end: number;
  readonly result: PacketWriteResult;
}

export class PacketDevice {
  /** For error messages. */
  readonly name: string;
  readonly fd: number;
  readonly #poll: Poll;
  #onReadable: (() => void) | undefined;
  #onWritable: (() => void) | undefined;
  #paused = false;
  /** What the event loop watches now: 1 readable, 2 writable. */
  #watched = 0;
  #failure: SystemCallError | undefined;
  #ended = false;
  #closed = false;
  #truncatedPackets = 0;
  #refusedPackets = 0;

  /** Takes the descriptor over. */
  constructor(name: string, fd: number) {
    this.name = name;
    this.fd = fd;
    fcntl(fd, 'F_SETFL', O_NONBLOCK);
    this.#poll = new Poll(fd, (status, events) => this.#wake(status, events));
  }

  /** Why it can't be read any more (deleted from outside); undefined while it can. */
  get failure(): SystemCallError | undefined {
    return this.#failure;
  }

  /** The other end was closed: nothing more comes. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Longer than any packet can be, and therefore left out of the batches. */
  get truncatedPackets(): number {
    return this.#truncatedPackets;
  }

  /**
   * Not what the kernel takes, such as one with a malformed virtio_net_hdr: left out of what was
   * written.
   */
  get refusedPackets(): number {
    return this.#refusedPackets;
  }

  /**
   * Calls `callback` from the event loop whenever packets wait; it should call `readBatch` once.
   * Not called while paused, nor after a failure or `close`, but once when the other end closes.
   */
  onReadable(callback: () => void): void {
    this.#onReadable = callback;
    this.#watch();
  }

  /** Calls `callback` once, when a packet that was refused as `full` may fit. */
  onceWritable(callback: () => void): void {
    this.#onWritable = callback;
    this.#watch();
  }

  /** Leaves arriving packets where they are: in a TAP's queue, or with the sender that waits. */
  pauseReading(): void {
    this.#paused = true;
    this.#watch();
  }

  resumeReading(): void {
    this.#paused = false;
    this.#watch();
  }

  /** The packets that wait, as one batch the caller owns; undefined when there are none. */
  readBatch(): Buffer | undefined {
    if (this.#closed || this.#ended || this.#failure !== undefined) return undefined;
    let end = 0;
    for (let packets = 0; packets < BATCH_PACKETS_MAX; packets++) {
      const start = end + LENGTH_BYTES;
      if (start + PACKET_BYTES_MAX >= scratch.length) break;
      // One byte more than allowed, to tell what was cut off.
      const length = Number(readFile(this.fd, scratchAddress + start, PACKET_BYTES_MAX + 1));
      if (length <= 0) {
        this.#endReading(length);
        break;
      }
      if (length > PACKET_BYTES_MAX) {
        this.#truncatedPackets++;
        continue;
      }
      scratch.writeUInt32BE(length, end);
      end = start + length;
    }
    return end === 0 ? undefined : Buffer.from(scratch.subarray(0, end));
  }

  /**
   * Writes packets of `batch` from offset `at` on, at most `packetsMax`.
   */
  writeBatch(batch: Buffer, at: number, packetsMax = Number.POSITIVE_INFINITY): WrittenBatch {
    if (this.#closed) return { end: at, packets: 0, result: 'down' };
    const address = Number(koffi.address(batch));
    let next = at;
    let packets = 0;
    for (; next < batch.length && packets < packetsMax; packets++) {
      const length = batch.readUInt32BE(next);
      const start = next + LENGTH_BYTES;
      if (Number(writeFile(this.fd, address + start, length)) < 0) {
        const result = interpretWriteError(koffi.errno());
        if (result !== 'ok') return { end: next, packets, result };
        this.#refusedPackets++;
      }
      next = start + length;
    }
    return { end: next, packets, result: 'ok' };
  }

  /** Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#poll.close();
    closeFile(this.fd);
  }

  #watch(): void {
    if (this.#closed) return;
    const alive = this.#failure === undefined;
    const readable = alive && this.#onReadable !== undefined && !this.#paused && !this.#ended;
    const writable = alive && this.#onWritable !== undefined;
    const watched = (readable ? 1 : 0) + (writable ? 2 : 0);
    if (watched === this.#watched) return;
    this.#watched = watched;
    this.#poll.watch({ readable, writable });
  }

  /** Of a broken descriptor the next read or write tells in detail. */
  #wake(status: number, event: PollEvents): void {
    // libuv has stopped watching then.
    if (status < 0) this.#watched = 0;
    if (event.writable || status < 0) {
      const callback = this.#onWritable;
      if (callback !== undefined) {
        this.#onWritable = undefined;
        callback();
        this.#watch();
      }
    }
    if ((event.readable || status < 0) && !this.#paused && !this.#ended) this.#onReadable?.();
    // The read may have found nothing (EAGAIN), and then nobody else watches again.
    if (status < 0) this.#watch();
  }

  /** A dead descriptor stays readable for ever: stop watching it, or the event loop spins. */
  #endReading(result: number): void {
    const errno = result === 0 ? 0 : koffi.errno();
    if (errno === EAGAIN) return;
    // A peer that closed with something unread makes it a reset.
    if (errno === 0 || errno === ECONNRESET) {
      this.#ended = true;
    } else {
      this.#failure = new SystemCallError(`read from ${this.name}`, errno);
    }
    this.#watch();
  }
}

/** `ok`: it is this packet that the kernel does not like. */
function interpretWriteError(errno: number): PacketWriteResult {
  switch (errno) {
    case EAGAIN:
      return 'full';
    case EIO:
    case EBADFD:
    case EPIPE:
    case ECONNRESET:
      return 'down';
    default:
      return 'ok';
  }
}
