/**
 * A TAP device: the host's end of one guest NIC, an Ethernet port whose wire is a file descriptor.
 *
 * Frames come out as *batches* (be32 length + frame, back to back), the format of QEMU's
 * `-netdev stream`, so nothing between here and QEMU or the peer has to look at them again.
 * Reads and writes are plain non-blocking system calls on the calling thread (about 1 us each);
 * readiness comes from the event loop. The device lives as long as its descriptor: it vanishes
 * with the process, however that ends.
 *
 * Source: Linux Documentation/networking/tuntap.rst; drivers/net/tun.c for the error numbers.
 */
import koffi from 'koffi';
import { ColoError, OperatorError } from '../lib/index.js';
import { check, libc, SystemCallError } from './libc.js';

/** Frames taken per wake-up: enough to spread the cost of one wake-up, below 1 ms of work. */
export const TAP_BATCH_FRAMES_MAX = 256;
/** Bytes of one batch: 256 frames of an ordinary MTU fit; a batch ends early before it overflows. */
export const TAP_BATCH_BYTES_MAX = 512 * 1024;

const FRAME_BYTES_MAX = 65_550;
const LENGTH_BYTES = 4;
const INTERFACE_NAME_BYTES_MAX = 15;
/** `struct ifreq`: 16 bytes of name, then a union of which the flags are the first 2 bytes. */
const IFREQ_BYTES = 40;

const O_RDWR = 0x2;
const O_NONBLOCK = 0x800;
const O_CLOEXEC = 0x80000;
const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
/** Refuse a device that exists: two agents on one TAP would each get half of the frames. */
const IFF_TUN_EXCL = 0x8000;

const EPERM = 1;
const ENOENT = 2;
const EIO = 5;
const ENXIO = 6;
const EAGAIN = 11;
const EACCES = 13;
const EBUSY = 16;
const ENODEV = 19;
const EBADFD = 77;

const openFile = libc.func('int open(const char *path, int flags)') as (
  path: string,
  flags: number,
) => number;
const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)') as (
  fd: number,
  request: number,
  argument: Buffer,
) => number;
const readFile = libc.func('long read(int fd, void *buffer, unsigned long size)') as (
  fd: number,
  buffer: Buffer,
  size: number,
) => number;
const writeFile = libc.func('long write(int fd, const void *buffer, unsigned long size)') as (
  fd: number,
  buffer: Buffer,
  size: number,
) => number;
const closeFile = libc.func('int close(int fd)') as (fd: number) => number;

/** What became of a written frame: `full`: the kernel had no buffer; `down`: link or device gone. */
export type TapWriteResult = 'ok' | 'full' | 'down';

/**
 * Creates the TAP device `name` in the process's network namespace. Its link is still down.
 * Throws `OperatorError` where the host can't or must not (no /dev/net/tun, no right, name taken).
 */
export function openTap(options: { name: string }): Tap {
  const { name } = options;
  if (!/^[^\s/:%]{1,15}$/.test(name) || Buffer.byteLength(name) > INTERFACE_NAME_BYTES_MAX) {
    throw new OperatorError(
      'COLO_E_TAP_NAME',
      `TAP name ${JSON.stringify(name)} is not valid: 1 to 15 bytes without space, "/", ":" or "%"`,
    );
  }
  const fd = openTunDevice();
  const request = Buffer.alloc(IFREQ_BYTES);
  request.write(name, 0);
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL, 16);
  try {
    check('ioctl TUNSETIFF', ioctl(fd, TUNSETIFF, request));
  } catch (cause) {
    closeFile(fd);
    throw explainTunSetIff(name, cause);
  }
  return new Tap(name, fd);
}

function openTunDevice(): number {
  try {
    return check('open', openFile('/dev/net/tun', O_RDWR | O_NONBLOCK | O_CLOEXEC));
  } catch (cause) {
    const number = cause instanceof SystemCallError ? cause.errno : 0;
    const missing = number === ENOENT || number === ENODEV || number === ENXIO;
    throw new OperatorError(
      'COLO_E_NO_TUN',
      missing
        ? '/dev/net/tun is missing: load the module with "modprobe tun", or give the container the device'
        : '/dev/net/tun can not be opened: run as root, or grant CAP_NET_ADMIN and access to it',
      { cause },
    );
  }
}

function explainTunSetIff(name: string, cause: unknown): unknown {
  if (!(cause instanceof SystemCallError)) return cause;
  if (cause.errno === EBUSY) {
    return new OperatorError(
      'COLO_E_TAP_EXISTS',
      `Interface ${name} exists already: stop what uses it, or choose another TAP name`,
      { cause },
    );
  }
  if (cause.errno === EPERM || cause.errno === EACCES) {
    return new OperatorError(
      'COLO_E_TAP_RIGHTS',
      `TAP ${name} can not be created: run as root, or grant CAP_NET_ADMIN`,
      { cause },
    );
  }
  return new ColoError('COLO_E_TAP', `TAP ${name} can not be created`, { cause });
}

/** One open TAP device; use `openTap`. */
export class Tap {
  readonly name: string;
  readonly #fd: number;
  /** Frames are read here first; what leaves is a copy of the filled part. */
  readonly #scratch = Buffer.allocUnsafeSlow(TAP_BATCH_BYTES_MAX);
  /** Kept for its life: events stop silently once a poll handle is garbage collected. */
  #poll: ReturnType<typeof koffi.node.poll> | undefined;
  #onReadable: (() => void) | undefined;
  #paused = false;
  #failure: SystemCallError | undefined;
  #closed = false;

  constructor(name: string, fd: number) {
    this.name = name;
    this.#fd = fd;
  }

  /** Why the device can't be read any more (deleted from outside); undefined while it can. */
  get failure(): SystemCallError | undefined {
    return this.#failure;
  }

  /**
   * Calls `callback` from the event loop whenever frames wait; it should call `readBatch` once.
   * Not called while paused, nor after a failure or `close`.
   */
  onReadable(callback: () => void): void {
    this.#onReadable = callback;
    this.#watch();
  }

  /** Leaves arriving frames in the kernel's queue (its `txqueuelen`; the newest are dropped). */
  pauseReading(): void {
    this.#paused = true;
    this.#poll?.stop();
  }

  resumeReading(): void {
    this.#paused = false;
    this.#watch();
  }

  /** The frames that wait, as one batch the caller owns; undefined when there are none. */
  readBatch(): Buffer | undefined {
    if (this.#closed || this.#failure !== undefined) return undefined;
    const scratch = this.#scratch;
    let end = 0;
    for (let frames = 0; frames < TAP_BATCH_FRAMES_MAX; frames++) {
      const start = end + LENGTH_BYTES;
      if (start + FRAME_BYTES_MAX > scratch.length) break;
      const length = Number(readFile(this.#fd, scratch.subarray(start), FRAME_BYTES_MAX));
      if (length <= 0) {
        if (length < 0 && koffi.errno() !== EAGAIN) this.#fail(koffi.errno());
        break;
      }
      scratch.writeUInt32BE(length, end);
      end = start + length;
    }
    return end === 0 ? undefined : Buffer.from(scratch.subarray(0, end));
  }

  /** Sends one Ethernet frame (without length) into the host's network. */
  writeFrame(frame: Buffer): TapWriteResult {
    if (this.#closed) return 'down';
    if (Number(writeFile(this.#fd, frame, frame.length)) >= 0) return 'ok';
    const errno = koffi.errno();
    return errno === EIO || errno === EBADFD ? 'down' : 'full';
  }

  /** Removes the device. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#poll?.close();
    this.#poll = undefined;
    closeFile(this.#fd);
  }

  #watch(): void {
    const callback = this.#onReadable;
    if (callback === undefined || this.#paused || this.#closed || this.#failure !== undefined) {
      return;
    }
    if (this.#poll === undefined) {
      this.#poll = koffi.node.poll(this.#fd, { readable: true }, callback);
    } else {
      this.#poll.start({ readable: true }, callback);
    }
  }

  /** A dead descriptor stays readable for ever: stop watching it, or the event loop spins. */
  #fail(errno: number): void {
    this.#failure = new SystemCallError(`read from TAP ${this.name}`, errno);
    this.#poll?.stop();
  }
}
