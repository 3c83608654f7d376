/**
 * Frames that may leave but have not been written to the TAP yet, in order. Batches go in, single
 * frames come out, since a TAP takes one frame per write. An epoch's output is released at once and
 * written over several event loop turns; this queue is what lies between.
 */
import { countFrames, LENGTH_BYTES } from './batch-wire.js';
import { LAN_QUEUE_BYTES_HARD } from './limits.js';

export class LanQueue {
  #batches: Buffer[] = [];
  /** Index of the batch that is being written, and the offset in it. */
  #first = 0;
  #offset = 0;
  #bytes = 0;

  /** Not yet taken, lengths included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** No more should be read from the guest. */
  get full(): boolean {
    return this.#bytes >= LAN_QUEUE_BYTES_HARD;
  }

  /** Takes a well-formed batch by reference. */
  push(batch: Buffer): void {
    this.#batches.push(batch);
    this.#bytes += batch.length;
  }

  /** The next frame, a slice of its batch; undefined when empty. */
  shift(): Buffer | undefined {
    const batch = this.#batches[this.#first];
    if (batch === undefined) return undefined;
    const start = this.#offset + LENGTH_BYTES;
    const end = start + batch.readUInt32BE(this.#offset);
    this.#bytes -= end - this.#offset;
    this.#offset = end;
    if (end === batch.length) this.#nextBatch();
    return batch.subarray(start, end);
  }

  /** Drops everything and gives the number of frames dropped. */
  clear(): number {
    let frames = 0;
    for (let index = this.#first; index < this.#batches.length; index++) {
      const batch = this.#batches[index] as Buffer;
      frames += countFrames(index === this.#first ? batch.subarray(this.#offset) : batch);
    }
    this.#batches = [];
    this.#first = 0;
    this.#offset = 0;
    this.#bytes = 0;
    return frames;
  }

  #nextBatch(): void {
    this.#first++;
    this.#offset = 0;
    // Cut off what is written once it is the larger part: constant cost per batch, bounded memory.
    if (this.#first * 2 >= this.#batches.length) {
      this.#batches = this.#batches.slice(this.#first);
      this.#first = 0;
    }
  }
}
