import { ProtocolError } from './errors.js';

/**
 * Reads big-endian fields from untrusted bytes. Every read checks what is left first and throws
 * `ProtocolError` on truncation; slices are borrowed from the underlying buffer, not copied.
 */
export class ByteReader {
  readonly #bytes: Buffer;
  #position = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get remaining(): number {
    return this.#bytes.length - this.#position;
  }

  uint8(): number {
    return this.#bytes.readUInt8(this.#take(1));
  }

  uint16(): number {
    return this.#bytes.readUInt16BE(this.#take(2));
  }

  uint32(): number {
    return this.#bytes.readUInt32BE(this.#take(4));
  }

  /** A 64-bit field that must be a safe integer (sizes, offsets, epochs). */
  uint53(): number {
    const at = this.#take(8);
    const high = this.#bytes.readUInt32BE(at);
    if (high > 0x1f_ffff) throw new ProtocolError('A 64-bit field exceeds 2^53 - 1');
    return high * 0x1_0000_0000 + this.#bytes.readUInt32BE(at + 4);
  }

  bytes(length: number): Buffer {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  /** A be32 length, at most `maxBytes`, then that many bytes of UTF-8. */
  text(maxBytes: number): string {
    const length = this.uint32();
    if (length > maxBytes) {
      throw new ProtocolError(`A text of ${length} bytes exceeds the limit of ${maxBytes}`);
    }
    return this.bytes(length).toString('utf8');
  }

  rest(): Buffer {
    return this.bytes(this.remaining);
  }

  /** Throws unless every byte has been read: trailing bytes are a broken format, not padding. */
  end(): void {
    if (this.remaining !== 0) throw new ProtocolError(`${this.remaining} bytes follow the message`);
  }

  #take(length: number): number {
    if (length > this.remaining) {
      throw new ProtocolError(`Truncated: ${length} bytes expected, ${this.remaining} left`);
    }
    const at = this.#position;
    this.#position += length;
    return at;
  }
}
