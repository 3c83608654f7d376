/**
 * A set of guest pages: which are missing at the destination, known to be zero, changed since a
 * version. One bit per page, counted as it changes; 32 KiB per GiB of RAM.
 */
import {
  assert,
  type BitRun,
  bitRuns,
  nextSetBit,
  PAGE_SIZE_BYTES,
  type PageRange,
} from '../../lib/index.js';
import { RAM_PAGES_MAX } from './limits.js';

export class PageBitmap {
  /** Pages of the RAM that this is about. */
  readonly pages: number;
  readonly #words: Int32Array;
  #count = 0;

  /** Of `pages` pages, none of them set. */
  constructor(pages: number) {
    assert(Number.isInteger(pages) && pages >= 0 && pages <= RAM_PAGES_MAX, `${pages} pages`);
    this.pages = pages;
    this.#words = new Int32Array(Math.ceil(pages / 32));
  }

  /** How many are set. */
  get count(): number {
    return this.#count;
  }

  has(page: number): boolean {
    return ((this.#words[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0;
  }

  set(first: number, count = 1): void {
    this.#change(first, count, true);
  }

  clear(first: number, count = 1): void {
    this.#change(first, count, false);
  }

  /** Sets byte ranges as trackers and RAM files give them; each is page-aligned. */
  setRanges(ranges: Iterable<PageRange>): void {
    for (const { offset, length } of ranges) {
      this.set(offset / PAGE_SIZE_BYTES, length / PAGE_SIZE_BYTES);
    }
  }

  /** The first set page from `from` on; undefined if there is none. */
  next(from = 0): number | undefined {
    const found = nextSetBit(this.#wordAt, from, this.pages);
    return found < this.pages ? found : undefined;
  }

  /** Runs of set pages within [first, end), ascending. Don't change the set meanwhile. */
  runs(first = 0, end = this.pages): Generator<BitRun> {
    return bitRuns(this.#wordAt, first, end);
  }

  /** The same as byte ranges. */
  *ranges(first = 0, end = this.pages): Generator<PageRange> {
    for (const run of this.runs(first, end)) {
      yield { offset: run.first * PAGE_SIZE_BYTES, length: run.count * PAGE_SIZE_BYTES };
    }
  }

  /** Pages set within [first, first + count). */
  countIn(first: number, count: number): number {
    let found = 0;
    this.#eachWord(first, count, (word, mask) => {
      found += popCount((this.#words[word] as number) & mask);
    });
    return found;
  }

  clone(): PageBitmap {
    const copy = new PageBitmap(this.pages);
    copy.#words.set(this.#words);
    copy.#count = this.#count;
    return copy;
  }

  equals(other: PageBitmap): boolean {
    return (
      this.pages === other.pages &&
      this.#count === other.#count &&
      this.#words.every((word, index) => word === other.#words[index])
    );
  }

  #wordAt = (index: number): number => this.#words[index] as number;

  #change(first: number, count: number, value: boolean): void {
    this.#eachWord(first, count, (word, mask) => {
      const before = this.#words[word] as number;
      const after = value ? before | mask : before & ~mask;
      if (after === before) return;
      this.#words[word] = after;
      const changed = popCount(before ^ after);
      this.#count += value ? changed : -changed;
    });
  }

  #eachWord(first: number, count: number, visit: (word: number, mask: number) => void): void {
    const end = first + count;
    assert(
      Number.isInteger(first) && Number.isInteger(count) && first >= 0 && count >= 0,
      `Pages ${first}+${count} are no range`,
    );
    assert(end <= this.pages, `Pages ${first}+${count} exceed ${this.pages}`);
    for (let at = first; at < end; ) {
      const bit = at & 31;
      const length = Math.min(32 - bit, end - at);
      visit(at >>> 5, length === 32 ? -1 : ((1 << length) - 1) << bit);
      at += length;
    }
  }
}

function popCount(word: number): number {
  let bits = word - ((word >>> 1) & 0x5555_5555);
  bits = (bits & 0x3333_3333) + ((bits >>> 2) & 0x3333_3333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

/** A bitmap of so many pages with those of `ranges` set. */
export function pageBitmapOf(pages: number, ranges: Iterable<PageRange>): PageBitmap {
  const bitmap = new PageBitmap(pages);
  for (const { offset, length } of ranges) {
    bitmap.set(offset / PAGE_SIZE_BYTES, length / PAGE_SIZE_BYTES);
  }
  return bitmap;
}
