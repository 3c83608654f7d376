/**
 * What the destination has of the pages that were sent last: a bounded cache, the page used least
 * recently leaves first. The memory is reserved at once and used from the first write on.
 */
import { assert, PAGE_SIZE_BYTES } from '../../lib/index.js';
import { SENT_CACHE_BYTES_MAX } from './limits.js';

const PAGE_WORDS = PAGE_SIZE_BYTES / 4;

export class SentPages {
  /** All slots; a page's words begin at what `find` and `put` return. */
  readonly words: Int32Array;
  readonly #bytes: Buffer;
  readonly #slots: number;
  /** Page to slot, in the order of their last use. */
  readonly #slotOf = new Map<number, number>();

  constructor(sizeBytes: number) {
    assert(sizeBytes >= 0 && sizeBytes <= SENT_CACHE_BYTES_MAX, `A cache of ${sizeBytes} bytes`);
    this.#slots = Math.floor(sizeBytes / PAGE_SIZE_BYTES);
    this.#bytes = Buffer.allocUnsafeSlow(this.#slots * PAGE_SIZE_BYTES);
    this.words = new Int32Array(this.#bytes.buffer);
  }

  get capacity(): number {
    return this.#slots;
  }

  /** Where the page's words begin in `words`; undefined if it is not here. Counts as a use. */
  find(page: number): number | undefined {
    const slot = this.#slotOf.get(page);
    if (slot === undefined) return undefined;
    this.#slotOf.delete(page);
    this.#slotOf.set(page, slot);
    return slot * PAGE_WORDS;
  }

  /** The page whose words begin at `start` is equal to `bytes`. */
  isEqual(start: number, bytes: Buffer): boolean {
    return (
      this.#bytes.compare(bytes, 0, PAGE_SIZE_BYTES, start * 4, start * 4 + PAGE_SIZE_BYTES) === 0
    );
  }

  /** Copies the page's new version, in place of the oldest page if there is no room. */
  put(page: number, bytes: Buffer): void {
    let slot = this.#slotOf.get(page);
    if (slot === undefined) slot = this.#freeSlot();
    else this.#slotOf.delete(page);
    if (slot === undefined) return;
    this.#slotOf.set(page, slot);
    bytes.copy(this.#bytes, slot * PAGE_SIZE_BYTES);
  }

  /** Nothing is known any more. */
  clear(): void {
    this.#slotOf.clear();
  }

  #freeSlot(): number | undefined {
    if (this.#slotOf.size < this.#slots) return this.#slotOf.size;
    const oldest = this.#slotOf.entries().next().value;
    if (oldest === undefined) return undefined;
    this.#slotOf.delete(oldest[0]);
    return oldest[1];
  }
}
