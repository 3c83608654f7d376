/**
 * The memory that one NBD connection works in. Buffers that come and go by the thousand cost more
 * than what is done with them: each is memory to be mapped, and work for the garbage collector.
 */
import { NBD_RECEIVE_BYTES, NBD_RECEIVE_ONCE_BYTES } from './limits.js';
import type { NbdSession } from './nbd-session.js';

/** Where the socket is read to: a large payload to its own place, all else to pieces in turn. */
export class ReceiveBuffer {
  #piece = Buffer.allocUnsafeSlow(NBD_RECEIVE_BYTES);
  #used = 0;
  /** Writes that the session had given a part of what it received when the piece was new. */
  #lentBefore = 0;
  #returned = 0;
  /** What was asked for last is a payload's place. */
  #direct = false;

  /** Who gets what is received. */
  session: NbdSession | undefined;

  /** Where the next bytes of the socket are to go. */
  next(): Uint8Array {
    const payload = this.session?.payloadRest;
    this.#direct = payload !== undefined;
    if (payload !== undefined) return payload;
    if (this.#isFree()) this.#begin();
    if (this.#piece.length - this.#used < NBD_RECEIVE_ONCE_BYTES) {
      // The old one belongs to those requests that were read from it and are not done.
      this.#piece = Buffer.allocUnsafeSlow(NBD_RECEIVE_BYTES);
      this.#begin();
    }
    return this.#piece.subarray(this.#used, this.#used + NBD_RECEIVE_ONCE_BYTES);
  }

  /** So many bytes have come, to the place that was asked for last. */
  received(bytes: number): void {
    if (this.#direct) {
      this.session?.filled(bytes);
      return;
    }
    this.session?.receive(this.#piece.subarray(this.#used, this.#used + bytes));
    this.#used += bytes;
  }

  /** Nobody will look at a write's data any more. Nothing happens to what is not of the piece. */
  giveBack(data: Buffer): void {
    if (data.buffer === this.#piece.buffer) this.#returned += 1;
  }

  /** All of it has been read, and no request has a part of it. */
  #isFree(): boolean {
    if (this.session === undefined || this.session.unreadBytes > 0) return false;
    return this.session.lent === this.#lentBefore + this.#returned;
  }

  #begin(): void {
    this.#used = 0;
    this.#lentBefore = this.session?.lent ?? 0;
    this.#returned = 0;
  }
}

/** Buffers that were used before, by their length: a guest asks for the same few lengths. */
export class BufferPool {
  readonly #bytesMax: number;
  readonly #free = new Map<number, Buffer[]>();
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Its content is whatever was in it. */
  take(length: number): Buffer {
    const buffer = this.#free.get(length)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(length);
    this.#bytes -= length;
    return buffer;
  }

  /** Nobody may use it any more. Nothing happens to a part of something else. */
  giveWhole(buffer: Buffer): void {
    const { length } = buffer;
    if (buffer.buffer.byteLength !== length) return;
    // Other lengths by now: those of before go.
    if (this.#bytes + length > this.#bytesMax) this.#clear();
    if (length > this.#bytesMax) return;
    const free = this.#free.get(length);
    if (free === undefined) this.#free.set(length, [buffer]);
    else free.push(buffer);
    this.#bytes += length;
  }

  #clear(): void {
    this.#free.clear();
    this.#bytes = 0;
  }
}
