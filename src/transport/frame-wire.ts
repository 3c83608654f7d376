/**
 * Frames: what every byte between two agents is part of.
 *
 * In: a TCP byte stream cut anywhere. Out: frames of a type and a payload. The header has a fixed
 * size and is checked field by field before anything is allocated by it; the checksum covers the
 * header's other fields and the payload, so a bit that flips in a buffer of ours, which TCP's own
 * checksum does not see, ends the connection instead of reaching a guest.
 *
 * | field    | offset | size | order | meaning                              | limit             |
 * | magic    | 0      | 4    | be    | 0x434f4c4f, "COLO"                   | exact             |
 * | version  | 4      | 1    |       | layout of header and payloads        | FRAME_VERSION     |
 * | flags    | 5      | 1    |       | reserved                             | 0                 |
 * | type     | 6      | 2    | be    | below 0x0100 transport, else user's  |                   |
 * | length   | 8      | 4    | be    | bytes of payload                     | maxPayloadBytes   |
 * | checksum | 12     | 4    | be    | CRC-32C of bytes 0..11 and payload   | exact             |
 * | payload  | 16     |      |       |                                      |                   |
 *
 * Invariant: the decoder holds at most one header and one payload of at most `maxPayloadBytes`.
 */
import { assert, crc32c, joinCrc32c, ProtocolError, restCrc32c } from '../lib/index.js';
import { LINK_PLACE_BYTES_MIN } from './limits.js';

export const FRAME_MAGIC = 0x434f4c4f;
export const FRAME_VERSION = 1;
export const FRAME_HEADER_BYTES = 16;

const CHECKED_HEADER_BYTES = 12;

/** One message. The receiver owns `payload`: the decoder never touches it again. It may be a slice
 * of what was read at once, so do not transfer its `.buffer`. */
export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
  /** Of one that was checked: CRC-32C of the header's first bytes, and with the payload. */
  readonly crcs?: { readonly header: number; readonly whole: number };
}

/** CRC-32C of the payload, which is read for it only if nobody has before. */
export function payloadCrc({ payload, crcs }: Frame): number {
  if (crcs === undefined) return crc32c(payload);
  return restCrc32c(crcs.whole, crcs.header, payload.length);
}

/**
 * `[header, ...parts]`; the parts are the payload, not copied, and must not change any more. With
 * `payloadCrc`, the payload's CRC-32C, they are not read either.
 */
export function encodeFrame(type: number, parts: readonly Buffer[], payloadCrc?: number): Buffer[] {
  assert(Number.isInteger(type) && type >= 0 && type <= 0xffff, `Frame type ${type} is no u16`);
  let length = 0;
  for (const part of parts) length += part.length;
  assert(length <= 0xffff_ffff, `A payload of ${length} bytes does not fit a frame`);
  const header = encodeHeader({ type, length, checksum: 0 });
  let checksum = crc32c(header.subarray(0, CHECKED_HEADER_BYTES));
  if (payloadCrc === undefined) for (const part of parts) checksum = crc32c(part, checksum);
  else checksum = joinCrc32c(checksum, payloadCrc, length);
  header.writeUInt32BE(checksum, CHECKED_HEADER_BYTES);
  return [header, ...parts];
}

function encodeHeader(fields: Omit<Header, 'headerCrc'>): Buffer {
  const header = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  header.writeUInt32BE(FRAME_MAGIC, 0);
  header.writeUInt8(FRAME_VERSION, 4);
  header.writeUInt8(0, 5);
  header.writeUInt16BE(fields.type, 6);
  header.writeUInt32BE(fields.length, 8);
  header.writeUInt32BE(fields.checksum, CHECKED_HEADER_BYTES);
  return header;
}

interface Header {
  readonly type: number;
  readonly length: number;
  readonly checksum: number;
  /** CRC-32C of the header's first bytes: the payload's is continued from it. */
  readonly headerCrc: number;
}

interface Partial {
  readonly header: Header;
  readonly payload: Buffer;
  filled: number;
  crc: number;
}

/**
 * Cuts a byte stream into frames. `write` throws ProtocolError on the first malformed byte it can
 * tell; frames before it in the same chunk are lost with the link, and every later call throws too.
 */
export class FrameDecoder {
  #maxPayloadBytes: number;
  readonly #header = Buffer.alloc(FRAME_HEADER_BYTES);
  #headerFilled = 0;
  #partial: Partial | undefined;
  #failure: ProtocolError | undefined;

  constructor(limits: { readonly maxPayloadBytes: number }) {
    this.#maxPayloadBytes = limits.maxPayloadBytes;
  }

  /** The bound for headers that are read from now on. */
  setMaxPayloadBytes(bytes: number): void {
    this.#maxPayloadBytes = bytes;
  }

  /**
   * The frames completed by `chunk`. It belongs to the decoder and the frames from now on, unless it
   * is `passing`: then what is kept of it is copied.
   */
  write(chunk: Buffer, lasting: 'kept' | 'passing' = 'kept'): Frame[] {
    return this.#guarded(() => this.#decode(chunk, lasting === 'passing'));
  }

  /** Where the next bytes of the stream belong, if many are missing of a payload. */
  place(): Buffer | undefined {
    const partial = this.#partial;
    if (partial === undefined || this.#failure !== undefined) return undefined;
    const rest = partial.payload.subarray(partial.filled);
    return rest.length < LINK_PLACE_BYTES_MIN ? undefined : rest;
  }

  /** The frame completed by so many bytes, which are at the beginning of `place` by now. */
  filled(bytes: number): Frame[] {
    const frames: Frame[] = [];
    const partial = this.#partial;
    if (partial !== undefined) this.#guarded(() => this.#came(partial, bytes, frames));
    return frames;
  }

  /** The stream has ended: throws ProtocolError inside of a frame. */
  end(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#partial !== undefined) {
      const { filled, payload } = this.#partial;
      throw new ProtocolError(
        `The stream ended after ${filled} of ${payload.length} bytes of a frame's payload`,
      );
    }
    if (this.#headerFilled > 0) {
      throw new ProtocolError(
        `The stream ended after ${this.#headerFilled} of ${FRAME_HEADER_BYTES} bytes of a frame's header`,
      );
    }
  }

  /**
   * The bytes of the frame that is not complete yet, exactly as they came, for another decoder to
   * go on with. This one starts afresh.
   */
  takeRest(): Buffer {
    if (this.#failure !== undefined) throw this.#failure;
    const partial = this.#partial;
    const begun = this.#header.subarray(0, this.#headerFilled);
    const rest =
      partial === undefined
        ? Buffer.from(begun)
        : Buffer.concat([
            encodeHeader(partial.header),
            partial.payload.subarray(0, partial.filled),
          ]);
    this.#headerFilled = 0;
    this.#partial = undefined;
    return rest;
  }

  #guarded<Result>(decode: () => Result): Result {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return decode();
    } catch (error) {
      if (error instanceof ProtocolError) this.#failure = error;
      throw error;
    }
  }

  #decode(chunk: Buffer, passing: boolean): Frame[] {
    const frames: Frame[] = [];
    let at = 0;
    while (at < chunk.length) {
      if (this.#partial !== undefined) {
        at += this.#fillPayload(this.#partial, chunk, at, frames);
        continue;
      }
      let header: Header;
      if (this.#headerFilled === 0 && chunk.length - at >= FRAME_HEADER_BYTES) {
        header = this.#parseHeader(chunk.subarray(at, at + FRAME_HEADER_BYTES));
        at += FRAME_HEADER_BYTES;
      } else {
        const copied = chunk.copy(this.#header, this.#headerFilled, at);
        at += copied;
        this.#headerFilled += copied;
        if (this.#headerFilled < FRAME_HEADER_BYTES) break;
        header = this.#parseHeader(this.#header);
        this.#headerFilled = 0;
      }
      const end = at + header.length;
      if (end <= chunk.length) {
        const part = chunk.subarray(at, end);
        const payload = passing ? Buffer.from(part) : part;
        frames.push(finishFrame(header, payload, crc32c(payload, header.headerCrc)));
        at = end;
      } else {
        const payload = Buffer.allocUnsafe(header.length);
        this.#partial = { header, payload, filled: 0, crc: header.headerCrc };
      }
    }
    return frames;
  }

  #fillPayload(partial: Partial, chunk: Buffer, at: number, frames: Frame[]): number {
    const copied = chunk.copy(partial.payload, partial.filled, at);
    this.#came(partial, copied, frames);
    return copied;
  }

  #came(partial: Partial, bytes: number, frames: Frame[]): void {
    const { payload, filled } = partial;
    // The checksum is taken piece by piece, while the piece is still in the CPU's cache.
    partial.crc = crc32c(payload.subarray(filled, filled + bytes), partial.crc);
    partial.filled += bytes;
    if (partial.filled < payload.length) return;
    this.#partial = undefined;
    frames.push(finishFrame(partial.header, payload, partial.crc));
  }

  #parseHeader(bytes: Buffer): Header {
    const magic = bytes.readUInt32BE(0);
    if (magic !== FRAME_MAGIC) {
      throw new ProtocolError(`A frame starts with ${hex(magic, 8)} instead of "COLO"`);
    }
    const version = bytes.readUInt8(4);
    if (version !== FRAME_VERSION) {
      throw new ProtocolError(
        `The peer speaks frame version ${version}, this side version ${FRAME_VERSION}`,
      );
    }
    const flags = bytes.readUInt8(5);
    if (flags !== 0) throw new ProtocolError(`A frame has flags ${hex(flags, 2)}, none is defined`);
    const type = bytes.readUInt16BE(6);
    const length = bytes.readUInt32BE(8);
    if (length > this.#maxPayloadBytes) {
      throw new ProtocolError(
        `A frame of type ${hex(type, 4)} announces ${length} bytes, the limit is ${this.#maxPayloadBytes}`,
      );
    }
    const headerCrc = crc32c(bytes.subarray(0, CHECKED_HEADER_BYTES));
    return { type, length, checksum: bytes.readUInt32BE(CHECKED_HEADER_BYTES), headerCrc };
  }
}

function finishFrame(header: Header, payload: Buffer, crc: number): Frame {
  if (crc !== header.checksum) {
    throw new ProtocolError(
      `A frame of type ${hex(header.type, 4)} has checksum ${hex(header.checksum, 8)}, its bytes give ${hex(crc, 8)}`,
    );
  }
  return { type: header.type, payload, crcs: { header: header.headerCrc, whole: crc } };
}

function hex(value: number, digits: number): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
