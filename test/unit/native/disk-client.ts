/**
 * A client of the NBD server in which the preload library does what it does in QEMU: calls the
 * library's `mmap`, `connect`, `sendmsg`, `recvmsg` and `close`, and what the socket did not take or
 * give it offers or asks for again.
 */
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import { clientFlags, option } from '../blockrep/support.js';

const PRELOAD = fileURLToPath(new URL('../../../native/ram-preload.so', import.meta.url));
const EAGAIN = 11;
const MSG_NOSIGNAL = 0x4000;
const NONBLOCKING_STREAM = 1 | 0o4000;
const POLLIN = 1;
const POLLOUT = 4;

const library = koffi.load(PRELOAD);
const libc = koffi.load('libc.so.6');
const number = 'uintptr_t';
const mmap = library.func('mmap', number, [number, number, 'int', 'int', 'int', 'int64']);
const connect = library.func('connect', 'int', ['int', 'void *', 'uint']);
const sendmsg = library.func('sendmsg', 'long', ['int', 'void *', 'int']);
const recvmsg = library.func('recvmsg', 'long', ['int', 'void *', 'int']);
const close = library.func('close', 'int', ['int']);
const socket = libc.func('socket', 'int', ['int', 'int', 'int']);
const poll = libc.func('poll', 'int', ['void *', 'ulong', 'int']);
const setsockopt = libc.func('setsockopt', 'int', ['int', 'int', 'int', 'void *', 'uint']);

/** Memory by its address. */
export interface Part {
  readonly address: bigint;
  readonly length: number;
}

export function partOf(bytes: Uint8Array): Part {
  return { address: BigInt(koffi.address(bytes)), length: bytes.length };
}

/** Maps the guest RAM that this process was given as descriptor 3. */
export function mapRam(sizeBytes: number): { readonly address: bigint; readonly bytes: Buffer } {
  const address = BigInt(mmap(0, sizeBytes, 3, 1, 3, 0) as number);
  return { address, bytes: Buffer.from(koffi.view(address, sizeBytes)) };
}

export class DiskClient {
  readonly fd: number;
  /** How often there was no room. */
  waits = 0;

  /** `sendBufferBytes`: so little that what is sent does not fit at once. */
  constructor(socketPath: string, sendBufferBytes: number) {
    this.fd = socket(1, NONBLOCKING_STREAM, 0) as number;
    const address = Buffer.alloc(110);
    address.writeUInt16LE(1, 0);
    address.write(socketPath, 2);
    if ((connect(this.fd, address, 3 + socketPath.length) as number) !== 0) {
      throw new Error('No server');
    }
    const room = Buffer.alloc(4);
    room.writeInt32LE(sendBufferBytes, 0);
    setsockopt(this.fd, 1, 7, room, room.length);
  }

  /** Negotiates until requests follow. */
  attach(options: { structured: boolean }): void {
    const go = option(1, Buffer.from('disk0'));
    this.receive(18);
    this.send(Buffer.concat([clientFlags(3), options.structured ? option(8) : go]));
    if (options.structured) {
      this.receive(20);
      this.send(go);
    }
    this.receive(10);
  }

  close(): void {
    close(this.fd);
  }

  send(bytes: Buffer): void {
    this.sendParts([partOf(bytes)]);
  }

  sendParts(parts: readonly Part[]): void {
    this.#all(parts, sendmsg, POLLOUT);
  }

  receive(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    this.receiveParts([partOf(bytes)]);
    return bytes;
  }

  /** Fills all of them. */
  receiveParts(parts: readonly Part[]): void {
    this.#all(parts, recvmsg, POLLIN);
  }

  /** As much as one call gives, once there is something. */
  receiveSome(part: Part): number {
    for (;;) {
      const count = this.#call([part], recvmsg);
      if (count !== undefined) return count;
      this.#waitFor(POLLIN);
    }
  }

  /** Whether there is something to receive; if so, a byte of it is gone. */
  hasSome(): boolean {
    return this.#call([partOf(Buffer.alloc(1))], recvmsg) !== undefined;
  }

  #all(parts: readonly Part[], call: typeof sendmsg, events: number): void {
    let rest = [...parts];
    while (rest.length > 0) {
      const count = this.#call(rest, call);
      if (count === undefined) this.#waitFor(events);
      else rest = behind(rest, count);
    }
  }

  /** Undefined: there was no room, or nothing was there. */
  #call(parts: readonly Part[], call: typeof sendmsg): number | undefined {
    const vector = new BigUint64Array(parts.flatMap((each) => [each.address, BigInt(each.length)]));
    const message = new BigUint64Array(7);
    message[2] = BigInt(koffi.address(vector));
    message[3] = BigInt(parts.length);
    const count = Number(call(this.fd, message, MSG_NOSIGNAL));
    if (count > 0) return count;
    if (count === 0) throw new Error('The server has closed the connection');
    if (koffi.errno() === EAGAIN) return undefined;
    throw new Error(`The connection failed: ${koffi.errno()}`);
  }

  #waitFor(events: number): void {
    if (events === POLLOUT) this.waits += 1;
    const entry = Buffer.alloc(8);
    entry.writeInt32LE(this.fd, 0);
    entry.writeInt16LE(events, 4);
    if ((poll(entry, 1, 30_000) as number) !== 1) throw new Error('Nothing happens');
  }
}

const CHUNK_HEADER = '668e33ef00010001';
/** Of a chunk with a read's data: the chunk's own header, and where the data are from. */
export const CHUNK_HEAD_BYTES = 28;
const OFFSET_BYTES = 8;

/** What `CHUNK_HEAD_BYTES` bytes say. Throws if they are anything but a whole reply to a read. */
export function decodeChunkHead(head: Buffer): { cookie: number; offset: number; length: number } {
  if (head.toString('hex', 0, 8) !== CHUNK_HEADER) throw new Error(`Reply ${head.toString('hex')}`);
  return {
    cookie: Number(head.readBigUInt64BE(8)),
    offset: Number(head.readBigUInt64BE(20)),
    length: head.readUInt32BE(16) - OFFSET_BYTES,
  };
}

/** What is left of the parts behind their first `count` bytes. */
function behind(parts: readonly Part[], count: number): Part[] {
  let done = count;
  const rest: Part[] = [];
  for (const { address, length } of parts) {
    const skipped = Math.min(done, length);
    done -= skipped;
    if (skipped < length)
      rest.push({ address: address + BigInt(skipped), length: length - skipped });
  }
  return rest;
}
