/**
 * Takes fields of known length out of a stream that is cut anywhere. What lies in one chunk comes
 * as a slice of it; only what spans chunks is put together in a buffer of its own, which has
 * exactly the length asked for. So the caller's bound on that length is the bound on memory.
 */
const NO_BYTES = Buffer.alloc(0);

export class ChunkReader {
  #chunk: Buffer = NO_BYTES;
  #at = 0;
  /** Has the length last asked for while that is incomplete. */
  #partial: Buffer | undefined;
  #filledBytes = 0;
  #skipBytes = 0;

  /** The stream's next bytes; the ones before must have been used up by `take` or `skip`. */
  put(chunk: Buffer): void {
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** Nothing is unfinished: the stream may end here. */
  get empty(): boolean {
    return this.#at === this.#chunk.length && this.#filledBytes === 0 && this.#skipBytes === 0;
  }

  /**
   * The next `length` bytes, a slice where they lie in one chunk. Undefined while they have not arrived:
   * then the caller asks for the same again after the next `put`.
   */
  take(length: number): Buffer | undefined {
    if (!this.#skipPending()) return undefined;
    if (this.#partial === undefined) {
      const start = this.#at;
      if (this.#chunk.length - start >= length) {
        this.#at = start + length;
        return this.#chunk.subarray(start, this.#at);
      }
      // Nothing there yet: no room is made for what may never come.
      if (start === this.#chunk.length) return undefined;
      this.#partial = Buffer.allocUnsafe(length);
    }
    const end = Math.min(this.#chunk.length, this.#at + length - this.#filledBytes);
    this.#chunk.copy(this.#partial, this.#filledBytes, this.#at, end);
    this.#filledBytes += end - this.#at;
    this.#at = end;
    if (this.#filledBytes < length) return undefined;
    const whole = this.#partial;
    this.#partial = undefined;
    this.#filledBytes = 0;
    return whole;
  }

  /** Passes over the next `length` bytes, now or as they arrive. */
  skip(length: number): void {
    this.#skipBytes += length;
    this.#skipPending();
  }

  #skipPending(): boolean {
    const step = Math.min(this.#skipBytes, this.#chunk.length - this.#at);
    this.#skipBytes -= step;
    this.#at += step;
    return this.#skipBytes === 0;
  }
}
