/** Tells a missing, doubled or swapped batch of a stream. */
import { ByteWriter, crc32c } from '../lib/index.js';

/** CRC-32C over the CRC-32Cs of the coded batches (be32 each), in order. */
export class StreamDigest {
  #value = 0;
  #batches = 0;

  get value(): number {
    return this.#value;
  }

  get batches(): number {
    return this.#batches;
  }

  add(crc: number): void {
    this.#value = crc32c(new ByteWriter(4).uint32(crc).finish(), this.#value);
    this.#batches += 1;
  }
}
