/**
 * The digest of a guest's RAM as it was at the switchover, at a destination where it comes page by
 * page and the guest writes to what has come: a page counts as it came, whenever that was. With all
 * of them it is what `digestRam` gave the paused source. In: the pages, in any order. Out: the
 * CRC-32C of them all, in theirs. Pure.
 */
import { crc32c, joinCrc32c, PAGE_SIZE_BYTES } from '../lib/index.js';

export class ArrivedDigest {
  readonly #crcs: Uint32Array;
  readonly #here: Uint8Array;
  #left: number;

  constructor(pages: number) {
    this.#crcs = new Uint32Array(pages);
    this.#here = new Uint8Array(pages);
    this.#left = pages;
  }

  /** Whole pages from `offset` on. One that has come before, another way, is the same. */
  add(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += PAGE_SIZE_BYTES) {
      const page = (offset + at) / PAGE_SIZE_BYTES;
      if (this.#here[page] !== 0) continue;
      this.#here[page] = 1;
      this.#left -= 1;
      this.#crcs[page] = crc32c(bytes.subarray(at, at + PAGE_SIZE_BYTES));
    }
  }

  /** Undefined while a page has not come. */
  get value(): number | undefined {
    if (this.#left > 0) return undefined;
    return this.#crcs.reduce((crc, page) => joinCrc32c(crc, page, PAGE_SIZE_BYTES), 0);
  }
}
