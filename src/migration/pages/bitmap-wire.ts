/**
 * A page bitmap as bytes, in parts that cover RAM in ascending order without gaps: at a recovery
 * the destination tells with it which pages are missing. A part, big-endian:
 *
 * | field    | offset | size | meaning                                    | limit                  |
 * | -------- | ------ | ---- | ------------------------------------------ | ---------------------- |
 * | magic    | 0      | 4    | 0x43504254, ASCII "CPBT"                   | exact                  |
 * | version  | 4      | 1    | of this layout                             | 1                      |
 * | kind     | 5      | 1    | 0 runs, 1 bits                             | 0, 1                   |
 * | reserved | 6      | 2    |                                            | 0                      |
 * | ramPages | 8      | 4    | pages of the whole RAM                     | as the receiver has it |
 * | first    | 12     | 4    | first page that this part is about         | where the last ended   |
 * | pages    | 16     | 4    | how many it is about                       | 1 to 2^20, within RAM  |
 * | set      | 20     | 4    | how many of them are set                   | as the body says       |
 * | length   | 24     | 4    | bytes of the body                          | that of kind 1         |
 * | checksum | 28     | 4    | CRC-32C of bytes 0 to 27, then the body    | exact                  |
 *
 * Body of kind 0: for each run of set pages the distance from the end of the one before (from
 * `first` for the first one) and its length, both LEB128; distance 0 only in the first run. Kind 1:
 * one bit per page, page n in byte n / 8, least significant first; unused bits are 0.
 */
import { assert, crc32c, ProtocolError } from '../../lib/index.js';
import { BITMAP_PART_PAGES } from './limits.js';
import { PageBitmap } from './page-bitmap.js';

const MAGIC = 0x4350_4254;
const VERSION = 1;
const HEADER_BYTES = 32;
const KIND_RUNS = 0;
const KIND_BITS = 1;
const LEB_BYTES_MAX = 5;

/** All parts of a bitmap, in the order in which they must be sent. */
export function* encodeBitmap(bitmap: PageBitmap): Generator<Buffer> {
  for (let first = 0; first < bitmap.pages; first += BITMAP_PART_PAGES) {
    yield encodePart(bitmap, first, Math.min(BITMAP_PART_PAGES, bitmap.pages - first));
  }
}

/** Puts a bitmap together from its parts. Throws `ProtocolError` for any that does not fit. */
export class BitmapAssembler {
  readonly #bitmap: PageBitmap;
  #next = 0;

  constructor(ramPages: number) {
    this.#bitmap = new PageBitmap(ramPages);
  }

  /** The bitmap once its last part has come, until then undefined. */
  get finished(): PageBitmap | undefined {
    return this.#next === this.#bitmap.pages ? this.#bitmap : undefined;
  }

  /** Takes the next part whole. */
  add(part: Buffer): void {
    const { first, pages, set, kind, body } = decodeHeader(part, this.#bitmap.pages, this.#next);
    const before = this.#bitmap.count;
    if (kind === KIND_BITS) this.#addBits(first, pages, body);
    else this.#addRuns(first, first + pages, body);
    if (this.#bitmap.count - before !== set) {
      throw new ProtocolError(
        `A part of a bitmap has ${this.#bitmap.count - before} pages, its header says ${set}`,
      );
    }
    this.#next = first + pages;
  }

  #addBits(first: number, pages: number, body: Buffer): void {
    const usedBits = pages - (body.length - 1) * 8;
    if ((body.at(-1) as number) >>> usedBits !== 0) {
      throw new ProtocolError('A part of a bitmap has bits behind its last page');
    }
    for (let page = 0; page < pages; page++) {
      if (((body[page >>> 3] as number) & (1 << (page & 7))) !== 0) this.#bitmap.set(first + page);
    }
  }

  #addRuns(first: number, end: number, body: Buffer): void {
    let at = first;
    let position = 0;
    const number = (): number => {
      let value = 0;
      for (let index = 0; index < LEB_BYTES_MAX; index++) {
        const byte = body[position++];
        if (byte === undefined) break;
        value += (byte & 0x7f) * 2 ** (7 * index);
        if (byte < 0x80) return value;
      }
      throw new ProtocolError('A number in a bitmap is cut or too long');
    };
    while (position < body.length) {
      const start = at + number();
      const stop = start + number();
      if (stop > end || stop === start || (start === at && at !== first)) {
        throw new ProtocolError(`Pages ${start} to ${stop} of a bitmap do not fit behind ${at}`);
      }
      this.#bitmap.set(start, stop - start);
      at = stop;
    }
  }
}

function decodeHeader(part: Buffer, ramPages: number, next: number) {
  if (part.length < HEADER_BYTES) {
    throw new ProtocolError(`A part of a bitmap of ${part.length} bytes is cut`);
  }
  if (part.readUInt32BE(0) !== MAGIC || part[4] !== VERSION || part.readUInt16BE(6) !== 0) {
    throw new ProtocolError('A part of a bitmap does not begin as one of version 1');
  }
  const kind = part[5] as number;
  const [first, pages, set] = [part.readUInt32BE(12), part.readUInt32BE(16), part.readUInt32BE(20)];
  const length = part.readUInt32BE(24);
  if (part.readUInt32BE(8) !== ramPages) {
    throw new ProtocolError(
      `A bitmap is about ${part.readUInt32BE(8)} pages, the RAM has ${ramPages}`,
    );
  }
  if (first !== next || pages === 0 || pages > BITMAP_PART_PAGES || pages > ramPages - first) {
    throw new ProtocolError(`A part of a bitmap has pages ${first}+${pages} instead of ${next}`);
  }
  const bits = Math.ceil(pages / 8);
  if (kind > KIND_BITS || length > bits || (kind === KIND_BITS && length !== bits)) {
    throw new ProtocolError(`A part of a bitmap has ${length} bytes of kind ${kind}`);
  }
  if (part.length !== HEADER_BYTES + length) {
    throw new ProtocolError(`A part of a bitmap has ${part.length - HEADER_BYTES} of ${length}`);
  }
  const body = part.subarray(HEADER_BYTES);
  if (part.readUInt32BE(28) !== crc32c(body, crc32c(part.subarray(0, 28)))) {
    throw new ProtocolError('The checksum of a part of a bitmap is wrong');
  }
  return { first, pages, set, kind, body };
}

function encodePart(bitmap: PageBitmap, first: number, pages: number): Buffer {
  const runs = encodeRuns(bitmap, first, pages);
  const body = runs ?? encodeBits(bitmap, first, pages);
  const part = Buffer.alloc(HEADER_BYTES + body.length);
  part.writeUInt32BE(MAGIC, 0);
  part[4] = VERSION;
  part[5] = runs === undefined ? KIND_BITS : KIND_RUNS;
  part.writeUInt32BE(bitmap.pages, 8);
  part.writeUInt32BE(first, 12);
  part.writeUInt32BE(pages, 16);
  part.writeUInt32BE(bitmap.countIn(first, pages), 20);
  part.writeUInt32BE(body.length, 24);
  body.copy(part, HEADER_BYTES);
  part.writeUInt32BE(crc32c(body, crc32c(part.subarray(0, 28))), 28);
  return part;
}

/** Undefined where the bits themselves are shorter. */
function encodeRuns(bitmap: PageBitmap, first: number, pages: number): Buffer | undefined {
  const body = Buffer.allocUnsafe(Math.ceil(pages / 8));
  let length = 0;
  const put = (value: number): void => {
    assert(value < 2 ** 32, `${value} is too long for a bitmap`);
    for (let rest = value; ; rest = Math.floor(rest / 128)) {
      // Past the end nothing is written; the length tells it.
      body[length++] = rest < 128 ? rest : (rest % 128) | 0x80;
      if (rest < 128) return;
    }
  };
  let at = first;
  for (const run of bitmap.runs(first, first + pages)) {
    put(run.first - at);
    put(run.count);
    if (length > body.length) return undefined;
    at = run.first + run.count;
  }
  return body.subarray(0, length);
}

function encodeBits(bitmap: PageBitmap, first: number, pages: number): Buffer {
  const body = Buffer.alloc(Math.ceil(pages / 8));
  for (const run of bitmap.runs(first, first + pages)) {
    for (let page = run.first - first; page < run.first - first + run.count; page++) {
      body[page >>> 3] = (body[page >>> 3] as number) | (1 << (page & 7));
    }
  }
  return body;
}
