/** A set of guest pages, one bit each, that is searched and taken from in any order. */
import { assert, countBytes, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';

/** Ranges are bytes, page-aligned and within the RAM; indices are pages. */
export class PageMap {
  readonly #words: Uint32Array;
  readonly #pages: number;
  #size = 0;

  constructor(pages: number) {
    this.#pages = pages;
    this.#words = new Uint32Array(Math.ceil(pages / 32));
  }

  /** How many pages are in the set. */
  get size(): number {
    return this.#size;
  }

  /** Of the RAM, in the set or not. */
  get pages(): number {
    return this.#pages;
  }

  has(page: number): boolean {
    return ((this.#words[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0;
  }

  addAll(ranges: readonly PageRange[]): void {
    for (const range of ranges) this.add(range);
  }

  add(range: PageRange): void {
    const [first, end] = this.#bounds(range);
    for (let at = first; at < end; at = ((at >>> 5) + 1) << 5) {
      const word = this.#words[at >>> 5] as number;
      const added = bitsOf(at, end) & ~word;
      this.#words[at >>> 5] = word | added;
      this.#size += countBits(added);
    }
  }

  deleteAll(ranges: readonly PageRange[]): void {
    for (const range of ranges) this.delete(range);
  }

  delete(range: PageRange): void {
    const [first, end] = this.#bounds(range);
    for (let at = first; at < end; at = ((at >>> 5) + 1) << 5) {
      const word = this.#words[at >>> 5] as number;
      const removed = bitsOf(at, end) & word;
      this.#words[at >>> 5] = word & ~removed;
      this.#size -= countBits(removed);
    }
  }

  clear(): void {
    if (this.#size > 0) this.#words.fill(0);
    this.#size = 0;
  }

  /** The first page of the set at or after `from`; undefined: none. */
  next(from: number): number | undefined {
    for (let page = from; page < this.#pages; ) {
      const word = (this.#words[page >>> 5] as number) >>> (page & 31);
      if (word === 0) {
        page = ((page >>> 5) + 1) << 5;
        continue;
      }
      return page + (31 - Math.clz32(word & -word));
    }
    return undefined;
  }

  /** Takes up to `most` pages in [from, end) out of the set, ascending and joined. */
  take(from: number, end: number, most: number): PageRange[] {
    const taken: PageRange[] = [];
    let left = most;
    for (let page = this.next(from); page !== undefined && page < end && left > 0; ) {
      let stop = page;
      while (stop < end && stop - page < left && this.has(stop)) stop += 1;
      const range = rangeOf(page, stop - page);
      this.delete(range);
      taken.push(range);
      left -= stop - page;
      page = this.next(stop);
    }
    return taken;
  }

  /** Which of the pages of `ranges` are in the set; ascending within each range. */
  intersect(ranges: readonly PageRange[]): PageRange[] {
    const found: PageRange[] = [];
    for (const range of ranges) {
      const [first, end] = this.#bounds(range);
      for (let page = this.next(first); page !== undefined && page < end; ) {
        let stop = page;
        while (stop < end && this.has(stop)) stop += 1;
        found.push(rangeOf(page, stop - page));
        page = this.next(stop);
      }
    }
    return found;
  }

  /** All of it, ascending and joined. */
  ranges(): PageRange[] {
    return this.#pages === 0 ? [] : this.intersect([rangeOf(0, this.#pages)]);
  }

  #bounds({ offset, length }: PageRange): [number, number] {
    const first = offset / PAGE_SIZE_BYTES;
    const end = first + length / PAGE_SIZE_BYTES;
    assert(
      Number.isInteger(first) && Number.isInteger(end) && first >= 0 && end <= this.#pages,
      `${length} bytes at ${offset} are no pages of a RAM of ${this.#pages}`,
    );
    return [first, end];
  }
}

/** Of the word that page `from` is in: the bits of the pages from there to `end`. */
function bitsOf(from: number, end: number): number {
  const last = Math.min(end - 1, from | 31) & 31;
  return (-1 << (from & 31)) & (-1 >>> (31 - last));
}

function countBits(word: number): number {
  let count = word - ((word >>> 1) & 0x55555555);
  count = (count & 0x33333333) + ((count >>> 2) & 0x33333333);
  return Math.imul((count + (count >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

export function rangeOf(page: number, pages: number): PageRange {
  return { offset: page * PAGE_SIZE_BYTES, length: pages * PAGE_SIZE_BYTES };
}

/** Whether all of it is pages of a RAM of `pages`: for what a peer or a shell says. */
export function withinRam(ranges: readonly PageRange[], pages: number): boolean {
  const end = pages * PAGE_SIZE_BYTES;
  return ranges.every(
    ({ offset, length }) =>
      offset >= 0 &&
      length > 0 &&
      offset % PAGE_SIZE_BYTES === 0 &&
      length % PAGE_SIZE_BYTES === 0 &&
      offset + length <= end,
  );
}

export function countPages(ranges: readonly PageRange[]): number {
  return countBytes(ranges) / PAGE_SIZE_BYTES;
}
