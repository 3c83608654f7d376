/**
 * What the image that a destination kept saves the source, by digests. In: digests of both. Out:
 * which pages must be sent. A source that knows what has changed since that image asks for none.
 *
 * The order that makes it right while the guest runs: the source asks its dirty tracker first (from
 * then on every write is seen), then takes digests and compares. A page that is written before its
 * digest is taken is compared as written, one that is written later is dirty and is sent again.
 * What is not sent is equal at the moment of the comparison, and every later difference is known.
 */
import { assert, ProtocolError } from '../../lib/index.js';
import { PageBitmap } from '../pages/page-bitmap.js';
import { DIGEST_BYTES } from './limits.js';

/** Gathers which pages differ, batch by batch, in ascending order. */
export class DigestComparison {
  readonly #differing: PageBitmap;
  #next = 0;

  constructor(ramPages: number) {
    this.#differing = new PageBitmap(ramPages);
  }

  /** As far as they have been compared. Not to be changed. */
  get differing(): PageBitmap {
    return this.#differing;
  }

  /** The pages that must be sent once all have been compared, until then undefined. */
  get finished(): PageBitmap | undefined {
    return this.#next === this.#differing.pages ? this.#differing : undefined;
  }

  /** Compares the next pages: theirs from the destination, ours taken now with the same salt. */
  add(first: number, theirs: Buffer, ours: Buffer): void {
    const pages = theirs.length / DIGEST_BYTES;
    assert(ours.length === theirs.length, `${ours.length} bytes of digests for ${theirs.length}`);
    if (!Number.isInteger(pages) || first !== this.#next || first + pages > this.#differing.pages) {
      throw new ProtocolError(`Digests of pages ${first}+${pages} instead of ${this.#next}`);
    }
    this.#next += pages;
    if (ours.equals(theirs)) return;
    for (let page = 0; page < pages; page++) {
      const [from, to] = [page * DIGEST_BYTES, (page + 1) * DIGEST_BYTES];
      if (ours.compare(theirs, from, to, from, to) !== 0) this.#differing.set(first + page);
    }
  }
}
