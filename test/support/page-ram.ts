/** Guest RAM as a Buffer, with the interfaces of page coding, and counts of what was done to it. */
import { PAGE_SIZE_BYTES, type Prng } from '../../src/lib/index.js';
import type { PageSource, PageTarget } from '../../src/migration/index.js';

export class PageRam implements PageSource, PageTarget {
  readonly bytes: Buffer;
  readonly sizeBytes: number;
  writes = 0;
  discarded = 0;

  constructor(pages: number) {
    this.sizeBytes = pages * PAGE_SIZE_BYTES;
    this.bytes = Buffer.alloc(this.sizeBytes);
  }

  copyOut(offset: number, target: Buffer): void {
    this.#check(offset, target.length);
    this.bytes.copy(target, 0, offset);
  }

  writeFile(offset: number, bytes: Buffer): void {
    this.#check(offset, bytes.length);
    this.writes += 1;
    bytes.copy(this.bytes, offset);
  }

  discard(offset: number, length: number): void {
    this.#check(offset, length);
    this.writes += 1;
    this.discarded += length / PAGE_SIZE_BYTES;
    this.bytes.fill(0, offset, offset + length);
  }

  page(index: number): Buffer {
    return this.bytes.subarray(index * PAGE_SIZE_BYTES, (index + 1) * PAGE_SIZE_BYTES);
  }

  #check(offset: number, length: number): void {
    if (offset < 0 || offset + length > this.sizeBytes) throw new RangeError(`${offset}+${length}`);
  }
}

/** Fills a page with bytes that do not compress. */
export function fillRandom(page: Buffer, prng: Prng): void {
  for (let at = 0; at < page.length; at += 4) page.writeUInt32LE(prng.nextUint32(), at);
}

/** Bytes of a page as a heap has them: small numbers, pointers, zeroes. */
export function fillHeap(page: Buffer, prng: Prng): void {
  for (let at = 0; at < page.length; at += 8) {
    const kind = prng.nextInt(0, 3);
    page.writeUInt32LE(kind === 0 ? 0 : prng.nextInt(0, 5000) * 16, at);
    page.writeUInt32LE(kind === 2 ? 0x7f3a : 0, at + 4);
  }
}
