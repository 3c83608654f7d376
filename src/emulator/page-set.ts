/**
 * A set of guest pages: one bit a page, 32 KiB per GiB of RAM. In and out go ranges in bytes, made
 * of whole pages inside RAM; anything else is a bug of the caller.
 *
 * The bits are in shared memory: several threads may read and change the same set, each page in one
 * step. What one of them learns of several pages at once may be old for some of them.
 */
import { appendRange, assert, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';

const WORD_PAGES = 32;
const FULL = 0xffff_ffff;

export class PageSet {
  /** For another thread's set of the same pages. */
  readonly memory: SharedArrayBuffer;
  readonly #words: Uint32Array;
  /** How many pages are in the set, in the word behind the bits. */
  readonly #count: Int32Array;
  readonly #sizeBytes: number;

  /** Of a RAM of so many bytes: empty, or that of another thread with this `memory`. */
  constructor(sizeBytes: number, memory?: SharedArrayBuffer) {
    assert(sizeBytes % PAGE_SIZE_BYTES === 0, `Guest RAM of ${sizeBytes} bytes`);
    this.#sizeBytes = sizeBytes;
    const words = Math.ceil(sizeBytes / PAGE_SIZE_BYTES / WORD_PAGES);
    this.memory = memory ?? new SharedArrayBuffer((words + 1) * 4);
    this.#words = new Uint32Array(this.memory, 0, words);
    this.#count = new Int32Array(this.memory, words * 4, 1);
  }

  /** Number of pages in the set. */
  get count(): number {
    return Atomics.load(this.#count, 0);
  }

  has(offset: number): boolean {
    const page = Math.floor(offset / PAGE_SIZE_BYTES);
    const index = page >>> 5;
    if (index >= this.#words.length) return false;
    return ((Atomics.load(this.#words, index) >>> (page & 31)) & 1) !== 0;
  }

  add(range: PageRange): void {
    this.#eachWord(range, (index, mask) => {
      const before = Atomics.or(this.#words, index, mask);
      Atomics.add(this.#count, 0, bitsOf((mask & ~before) >>> 0));
    });
  }

  delete(range: PageRange): void {
    this.#eachWord(range, (index, mask) => {
      const before = Atomics.and(this.#words, index, ~mask >>> 0);
      Atomics.sub(this.#count, 0, bitsOf((mask & before) >>> 0));
    });
  }

  /** Those of `range` that are in the set, ascending and joined. */
  within(range: PageRange): PageRange[] {
    const ranges: PageRange[] = [];
    this.#eachWord(range, (index, mask) => {
      const word = (Atomics.load(this.#words, index) & mask) >>> 0;
      if (word === 0) return;
      const offset = index * WORD_PAGES * PAGE_SIZE_BYTES;
      if (word === FULL) {
        appendRange(ranges, { offset, length: WORD_PAGES * PAGE_SIZE_BYTES });
        return;
      }
      for (let bit = 0; bit < WORD_PAGES; bit++) {
        if (((word >>> bit) & 1) === 0) continue;
        const page = { offset: offset + bit * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES };
        appendRange(ranges, page);
      }
    });
    return ranges;
  }

  /** All of the set, ascending and joined. */
  ranges(): PageRange[] {
    return this.within({ offset: 0, length: this.#sizeBytes });
  }

  /** Each word that holds pages of `range`, with the bits of those. */
  #eachWord(range: PageRange, visit: (index: number, mask: number) => void): void {
    const { offset, length } = range;
    assert(
      offset % PAGE_SIZE_BYTES === 0 && length % PAGE_SIZE_BYTES === 0,
      `Range ${offset}+${length} is not made of pages`,
    );
    assert(
      offset >= 0 && length >= 0 && offset + length <= this.#sizeBytes,
      `Range ${offset}+${length} exceeds guest RAM of ${this.#sizeBytes} bytes`,
    );
    const end = (offset + length) / PAGE_SIZE_BYTES;
    for (let page = offset / PAGE_SIZE_BYTES; page < end; ) {
      const bit = page % WORD_PAGES;
      const bits = Math.min(WORD_PAGES - bit, end - page);
      const mask = bits === WORD_PAGES ? FULL : ((2 ** bits - 1) << bit) >>> 0;
      visit(Math.floor(page / WORD_PAGES), mask);
      page += bits;
    }
  }
}

function bitsOf(word: number): number {
  let count = 0;
  for (let rest = word; rest !== 0; rest = (rest & (rest - 1)) >>> 0) count++;
  return count;
}
