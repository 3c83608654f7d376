/**
 * Batches on their way to a device, in order. What is more than the device takes at once lies here:
 * an epoch's output that is released in one go, or input that a slow guest has not read.
 */
import { countFrames } from './batch-wire.js';

export class FrameQueue {
  readonly #bytesMax: number;
  #batches: Buffer[] = [];
  /** Index of the batch that is being written, and the offset of its next frame. */
  #first = 0;
  #offset = 0;
  #bytes = 0;

  /** `bytesMax`: from here on the queue calls itself full. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Not yet taken, lengths included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** No more should be pushed. It would be kept nevertheless. */
  get full(): boolean {
    return this.#bytes >= this.#bytesMax;
  }

  /** Takes a well-formed batch by reference. */
  push(batch: Buffer): void {
    if (batch.length === 0) return;
    this.#batches.push(batch);
    this.#bytes += batch.length;
  }

  /** The batch that is next, of which `offset` bytes are done with; undefined when empty. */
  get front(): Buffer | undefined {
    return this.#batches[this.#first];
  }

  get offset(): number {
    return this.#offset;
  }

  /** `front` is done with up to the frame that begins at `offset`. */
  advance(offset: number): void {
    this.#bytes -= offset - this.#offset;
    this.#offset = offset;
    if (offset === this.front?.length) this.#nextBatch();
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
