/**
 * Digests of pages as bytes, in batches that cover RAM in ascending order without gaps: what the
 * destination says of the image that it has. A batch, big-endian:
 *
 * | field    | offset | size | meaning                                      | limit                   |
 * | -------- | ------ | ---- | -------------------------------------------- | ----------------------- |
 * | magic    | 0      | 4    | 0x43504447, ASCII "CPDG"                     | exact                   |
 * | version  | 4      | 1    | of this layout                               | 1                       |
 * | reserved | 5      | 3    |                                              | 0                       |
 * | ramPages | 8      | 4    | pages of the whole RAM                       | as the receiver has it  |
 * | first    | 12     | 4    | first page                                   | where the last one ended |
 * | pages    | 16     | 4    | how many                                     | 1 to 4096, within RAM   |
 * | checksum | 20     | 4    | CRC-32C of bytes 0 to 19, then all that follows | exact                |
 * | present  | 24     | n    | bit per page: not zero; page n in byte n / 8, least significant first | unused bits 0 |
 * | digests  | 24 + n | 16 each | of the pages that are not zero             | none of them zeroes     |
 *
 * The salt goes with the offer of the image, not here.
 */
import { assert, crc32c, ProtocolError } from '../../lib/index.js';
import { DIGEST_BATCH_PAGES, DIGEST_BYTES } from './limits.js';

const MAGIC = 0x4350_4447;
const VERSION = 1;
const HEADER_BYTES = 24;
const CHECKSUM_AT = 20;
const ZERO_DIGEST = Buffer.alloc(DIGEST_BYTES);

/** What pages of zeroes have; another page has it with the probability of a collision. */
export function isZeroDigest(digests: Buffer, at: number): boolean {
  return digests.compare(ZERO_DIGEST, 0, DIGEST_BYTES, at, at + DIGEST_BYTES) === 0;
}

/** Digests of consecutive pages, 16 bytes each. */
export interface DigestBatch {
  readonly first: number;
  readonly digests: Buffer;
}

/** All batches of a RAM's digests, 16 bytes per page, in the order in which they must be sent. */
export function* encodeDigests(digests: Buffer): Generator<Buffer> {
  const ramPages = digests.length / DIGEST_BYTES;
  assert(Number.isInteger(ramPages), `Digests of ${digests.length} bytes`);
  for (let first = 0; first < ramPages; first += DIGEST_BATCH_PAGES) {
    const end = Math.min(first + DIGEST_BATCH_PAGES, ramPages);
    const batch = digests.subarray(first * DIGEST_BYTES, end * DIGEST_BYTES);
    yield encodeDigestBatch({ first, digests: batch }, ramPages);
  }
}

/** Takes batches apart, one after the other. */
export class DigestDecoder {
  readonly #ramPages: number;
  #next = 0;

  constructor(ramPages: number) {
    this.#ramPages = ramPages;
  }

  /** All batches have come. */
  get finished(): boolean {
    return this.#next === this.#ramPages;
  }

  /** The next batch, whole. Throws `ProtocolError` for any that does not fit. */
  add(bytes: Buffer): DigestBatch {
    if (bytes.length < HEADER_BYTES) throw new ProtocolError(`Digests of ${bytes.length} bytes`);
    const reserved = bytes.readUIntBE(5, 3);
    if (bytes.readUInt32BE(0) !== MAGIC || bytes[4] !== VERSION || reserved !== 0) {
      throw new ProtocolError('Digests do not begin as those of version 1');
    }
    const [first, pages] = [bytes.readUInt32BE(12), bytes.readUInt32BE(16)];
    if (bytes.readUInt32BE(8) !== this.#ramPages) {
      throw new ProtocolError(
        `Digests are of ${bytes.readUInt32BE(8)} pages, the RAM has ${this.#ramPages}`,
      );
    }
    if (first !== this.#next || pages === 0 || pages > DIGEST_BATCH_PAGES) {
      throw new ProtocolError(`Digests of pages ${first}+${pages} instead of ${this.#next}`);
    }
    if (first + pages > this.#ramPages) {
      throw new ProtocolError(`Digests of pages ${first}+${pages} of ${this.#ramPages}`);
    }
    const crc = crc32c(bytes.subarray(HEADER_BYTES), crc32c(bytes.subarray(0, CHECKSUM_AT)));
    if (bytes.readUInt32BE(CHECKSUM_AT) !== crc) {
      throw new ProtocolError('The checksum of digests is wrong');
    }
    const digests = expand(bytes.subarray(HEADER_BYTES), pages);
    this.#next = first + pages;
    return { first, digests };
  }
}

/** One of them: of 1 to `DIGEST_BATCH_PAGES` pages. Each begins where the one before has ended. */
export function encodeDigestBatch({ first, digests }: DigestBatch, ramPages: number): Buffer {
  const pages = digests.length / DIGEST_BYTES;
  const bitBytes = Math.ceil(pages / 8);
  const bytes = Buffer.alloc(HEADER_BYTES + bitBytes + digests.length);
  let length = HEADER_BYTES + bitBytes;
  for (let page = 0; page < pages; page++) {
    if (isZeroDigest(digests, page * DIGEST_BYTES)) continue;
    const at = HEADER_BYTES + (page >>> 3);
    bytes[at] = (bytes[at] as number) | (1 << (page & 7));
    digests.copy(bytes, length, page * DIGEST_BYTES, (page + 1) * DIGEST_BYTES);
    length += DIGEST_BYTES;
  }
  bytes.writeUInt32BE(MAGIC, 0);
  bytes[4] = VERSION;
  bytes.writeUInt32BE(ramPages, 8);
  bytes.writeUInt32BE(first, 12);
  bytes.writeUInt32BE(pages, 16);
  const body = bytes.subarray(HEADER_BYTES, length);
  bytes.writeUInt32BE(crc32c(body, crc32c(bytes.subarray(0, CHECKSUM_AT))), CHECKSUM_AT);
  return bytes.subarray(0, length);
}

function expand(body: Buffer, pages: number): Buffer {
  const bitBytes = Math.ceil(pages / 8);
  const present: number[] = [];
  for (let page = 0; page < Math.min(bitBytes, body.length) * 8; page++) {
    if (((body[page >>> 3] as number) & (1 << (page & 7))) !== 0) present.push(page);
  }
  if ((present.at(-1) ?? 0) >= pages) throw new ProtocolError('Digests have bits behind the last');
  if (body.length !== bitBytes + present.length * DIGEST_BYTES) {
    throw new ProtocolError(`${present.length} digests have ${body.length - bitBytes} bytes`);
  }
  const digests = Buffer.alloc(pages * DIGEST_BYTES);
  for (const [index, page] of present.entries()) {
    const from = bitBytes + index * DIGEST_BYTES;
    if (isZeroDigest(body, from)) throw new ProtocolError(`Digest ${index} of a page is empty`);
    body.copy(digests, page * DIGEST_BYTES, from, from + DIGEST_BYTES);
  }
  return digests;
}
