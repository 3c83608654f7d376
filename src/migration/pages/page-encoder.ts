/**
 * Turns guest pages into batches at the source, and knows what the destination has.
 *
 * In: page ranges and a way to copy guest RAM. Out: batches (page-batch.ts), in the order in which
 * they must be sent. For each page one of:
 * - nothing, when it is as it was last sent, or zero where the destination's page is zero;
 * - zero: a run in the table, no data;
 * - delta: what changed since it was last sent, if that is remembered and little;
 * - raw: runs of pages, copied once from the guest, and not again unless a page before them in the
 *   same batch was left out.
 *
 * A page is remembered from its second sending on: pages that are written once and never again do
 * not push out those that are written all the time, and the first round costs no copy.
 *
 * The encoder believes that every batch that it made arrives, and in this order: a generator must
 * be drained, and after a lost session `forget` comes before the next page.
 */
import { crc32c, PAGE_SIZE_BYTES, type PageRange } from '../../lib/index.js';
import {
  BATCH_DATA_BYTES,
  BATCH_DELTAS,
  BATCH_PAGES,
  BATCH_RUNS,
  DELTA_BYTES_MAX,
} from './limits.js';
import { DELTA_HEADER_BYTES, type PageBatch, type PageRun } from './page-batch.js';
import { PageBitmap } from './page-bitmap.js';
import { encodeDelta } from './page-delta.js';
import { SentPages } from './sent-pages.js';

/** What the encoder needs of guest RAM. */
export interface PageSource {
  copyOut(offset: number, target: Buffer): void;
}

export interface PageEncoderOptions {
  readonly ramPages: number;
  /** Bytes of sent versions that are remembered; 0 sends no deltas. */
  readonly cacheBytes: number;
  /** The destination's RAM is all zeroes now; not so when it starts from an image. */
  readonly destinationIsZero: boolean;
}

/** Pages by what became of them, since the encoder was made; bytes are before compression. */
export interface PageEncoderStats {
  readonly zero: number;
  readonly raw: number;
  readonly delta: number;
  readonly deltaBytes: number;
  /** Not sent: the destination has them. */
  readonly same: number;
}

/** Pages copied at a time: they are looked at while they are in the processor's cache. */
const CHUNK_BYTES = 64 * 1024;
/** Buffers of batches that wait to be used again: those of a window, 8 MiB. */
const SPARE_BUFFERS = 16;
const ZERO_CHUNK = Buffer.alloc(CHUNK_BYTES);

export class PageEncoder {
  readonly #sent: SentPages;
  /** Pages of the destination that are zero. */
  readonly #zeroThere: PageBitmap;
  readonly #sentOnce: PageBitmap;
  readonly #delta = Buffer.allocUnsafeSlow(DELTA_BYTES_MAX);
  readonly #spare: Buffer[] = [];
  readonly #stats = { zero: 0, raw: 0, delta: 0, deltaBytes: 0, same: 0 };

  constructor(options: PageEncoderOptions) {
    this.#sent = new SentPages(options.cacheBytes);
    this.#zeroThere = new PageBitmap(options.ramPages);
    this.#sentOnce = new PageBitmap(options.ramPages);
    if (options.destinationIsZero) this.#zeroThere.set(0, options.ramPages);
  }

  get stats(): PageEncoderStats {
    return { ...this.#stats };
  }

  /** Nothing is known of the destination any more; all that follows is zero or raw. */
  forget(): void {
    this.#sent.clear();
    this.#zeroThere.clear(0, this.#zeroThere.pages);
    this.#sentOnce.clear(0, this.#sentOnce.pages);
  }

  /** The batch has been sent, or compressed: its memory is used for a later one. Optional. */
  recycle(batch: PageBatch): void {
    const ours = batch.data.buffer.byteLength === BATCH_DATA_BYTES;
    if (!ours || this.#spare.length >= SPARE_BUFFERS) return;
    this.#spare.push(Buffer.from(batch.data.buffer));
  }

  /** Batches of the pages in `ranges`, in their order; a range that steps back starts a batch. */
  *encode(ranges: Iterable<PageRange>, ram: PageSource): Generator<PageBatch> {
    let builder = new BatchBuilder(this.#takeBuffer());
    for (const range of ranges) {
      const end = range.offset + range.length;
      for (let offset = range.offset; offset < end; ) {
        if (builder.full || offset / PAGE_SIZE_BYTES < builder.endPage) {
          if (builder.pages > 0) yield builder.batch();
          builder = new BatchBuilder(this.#takeBuffer());
        }
        const chunk = builder.room(Math.min(CHUNK_BYTES, end - offset));
        ram.copyOut(offset, chunk);
        this.#addChunk(builder, offset / PAGE_SIZE_BYTES, chunk);
        offset += chunk.length;
      }
    }
    if (builder.pages > 0) yield builder.batch();
    else this.#spare.push(builder.buffer);
  }

  #takeBuffer(): Buffer {
    return this.#spare.pop() ?? Buffer.allocUnsafeSlow(BATCH_DATA_BYTES);
  }

  #addChunk(builder: BatchBuilder, firstPage: number, chunk: Buffer): void {
    const pages = chunk.length / PAGE_SIZE_BYTES;
    if (isZero(chunk, 0, chunk.length)) {
      for (let page = firstPage; page < firstPage + pages; page++) this.#addZero(builder, page);
      return;
    }
    for (let index = 0; index < pages; index++) {
      const at = index * PAGE_SIZE_BYTES;
      if (isZero(chunk, at, PAGE_SIZE_BYTES)) this.#addZero(builder, firstPage + index);
      else this.#addData(builder, firstPage + index, chunk.subarray(at, at + PAGE_SIZE_BYTES));
    }
  }

  #addZero(builder: BatchBuilder, page: number): void {
    if (this.#zeroThere.has(page)) {
      this.#stats.same += 1;
      return;
    }
    this.#zeroThere.set(page);
    builder.addZero(page);
    this.#stats.zero += 1;
  }

  #addData(builder: BatchBuilder, page: number, bytes: Buffer): void {
    // What is remembered of a page that was zero since is not what the destination has.
    const wasZero = this.#zeroThere.has(page);
    if (wasZero) this.#zeroThere.clear(page);
    const base = wasZero || this.#sent.capacity === 0 ? undefined : this.#sent.find(page);
    if (base !== undefined) {
      if (this.#sent.isEqual(base, bytes)) {
        this.#stats.same += 1;
        return;
      }
      const now = { words: builder.words, start: bytes.byteOffset / 4 };
      const there = { words: this.#sent.words, start: base };
      const length = encodeDelta(now, bytes, there, this.#delta);
      if (length !== undefined && builder.deltas < BATCH_DELTAS) {
        this.#sent.put(page, bytes);
        builder.addDelta(page, crc32c(bytes), this.#delta.subarray(0, length));
        this.#stats.delta += 1;
        this.#stats.deltaBytes += length;
        return;
      }
    }
    if (this.#sent.capacity > 0) {
      if (this.#sentOnce.has(page)) this.#sent.put(page, bytes);
      else this.#sentOnce.set(page);
    }
    builder.addRaw(page, bytes);
    this.#stats.raw += 1;
  }
}

/** Fills one batch: pages are copied behind what is kept so far, and closed up as they are kept. */
class BatchBuilder {
  readonly buffer: Buffer;
  readonly words: Int32Array;
  readonly #runs: { first: number; count: number; readonly kind: PageRun['kind'] }[] = [];
  #length = 0;
  pages = 0;
  deltas = 0;
  /** Behind the last page. */
  endPage = 0;

  constructor(buffer: Buffer) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer.buffer);
  }

  /** Room for at least one page is what a batch that is not full has. */
  get full(): boolean {
    return (
      BATCH_DATA_BYTES - this.#length < PAGE_SIZE_BYTES ||
      this.pages >= BATCH_PAGES ||
      this.#runs.length >= BATCH_RUNS
    );
  }

  /** Where the next pages are copied to: at most `length` bytes, whole pages, at least one. */
  room(length: number): Buffer {
    const dataPages = Math.floor((BATCH_DATA_BYTES - this.#length) / PAGE_SIZE_BYTES);
    const pages = Math.min(
      dataPages,
      BATCH_PAGES - this.pages,
      // Each page may need a run.
      BATCH_RUNS - this.#runs.length,
    );
    return this.buffer.subarray(
      this.#length,
      this.#length + Math.min(length, pages * PAGE_SIZE_BYTES),
    );
  }

  addZero(page: number): void {
    this.#append(page, 'zero');
  }

  addRaw(page: number, bytes: Buffer): void {
    const from = bytes.byteOffset - this.buffer.byteOffset;
    if (from !== this.#length) this.buffer.copyWithin(this.#length, from, from + bytes.length);
    this.#length += bytes.length;
    this.#append(page, 'raw');
  }

  /** The tokens are shorter than the page that they stand for, whose room they take. */
  addDelta(page: number, crc: number, tokens: Buffer): void {
    this.buffer.writeUInt16BE(tokens.length, this.#length);
    this.buffer.writeUInt16BE(0, this.#length + 2);
    this.buffer.writeUInt32BE(crc, this.#length + 4);
    tokens.copy(this.buffer, this.#length + DELTA_HEADER_BYTES);
    this.#length += DELTA_HEADER_BYTES + tokens.length;
    this.deltas += 1;
    this.#append(page, 'delta');
  }

  batch(): PageBatch {
    return {
      runs: this.#runs,
      pages: this.pages,
      data: this.buffer.subarray(0, this.#length),
    };
  }

  #append(page: number, kind: PageRun['kind']): void {
    const last = this.#runs.at(-1);
    if (last !== undefined && last.kind === kind && last.first + last.count === page) {
      last.count += 1;
    } else {
      this.#runs.push({ first: page, count: 1, kind });
    }
    this.pages += 1;
    this.endPage = page + 1;
  }
}

function isZero(bytes: Buffer, from: number, length: number): boolean {
  // Most pages that are not zero show it in their first word.
  if (bytes.readInt32LE(from) !== 0) return false;
  return bytes.compare(ZERO_CHUNK, 0, length, from, from + length) === 0;
}
