/** A set of guest pages, given back as ranges in ascending order. */
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';

/** One bit per page; adding is cheap, clearing costs the size of what was added. */
export class PageSet {
  readonly #bits: Uint8Array;
  #low = Number.POSITIVE_INFINITY;
  #high = -1;
  #size = 0;

  constructor(pages: number) {
    this.#bits = new Uint8Array(pages);
  }

  /** How many pages are in the set. */
  get size(): number {
    return this.#size;
  }

  add(range: PageRange): void {
    const first = range.offset / PAGE_SIZE_BYTES;
    const end = first + range.length / PAGE_SIZE_BYTES;
    for (let page = first; page < end; page++) {
      if (this.#bits[page] === 1) continue;
      this.#bits[page] = 1;
      this.#size += 1;
    }
    this.#low = Math.min(this.#low, first);
    this.#high = Math.max(this.#high, end - 1);
  }

  /** The pages as ranges of at most `maxBytes`, none of which crosses a multiple of it. */
  *ranges(maxBytes: number): Generator<PageRange> {
    const maxPages = maxBytes / PAGE_SIZE_BYTES;
    for (let page = this.#low; page <= this.#high; ) {
      if (this.#bits[page] !== 1) {
        page += 1;
        continue;
      }
      const start = page;
      const limit = Math.min(this.#high + 1, (Math.floor(start / maxPages) + 1) * maxPages);
      while (page < limit && this.#bits[page] === 1) page += 1;
      yield { offset: start * PAGE_SIZE_BYTES, length: (page - start) * PAGE_SIZE_BYTES };
    }
  }

  clear(): void {
    if (this.#size > 0) this.#bits.fill(0, this.#low, this.#high + 1);
    this.#low = Number.POSITIVE_INFINITY;
    this.#high = -1;
    this.#size = 0;
  }
}
