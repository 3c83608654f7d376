/**
 * What the image that a destination kept saves the source: pure decisions.
 *
 * In: what the destination offers, what the source knows of its guest, digests of both. Out: which
 * pages must be sent.
 *
 * The order that makes it right while the guest runs: the source asks its dirty tracker first (from
 * then on every write is seen), then takes digests and compares. A page that is written before its
 * digest is taken is compared as written, one that is written later is dirty and is sent again.
 * What is not sent is equal at the moment of the comparison, and every later difference is known.
 */
import { assert, ProtocolError } from '../../lib/index.js';
import { PageBitmap } from '../pages/page-bitmap.js';
import { DIGEST_BYTES } from './limits.js';

/** The image that the destination has loaded, every page verified against its own digests. */
export interface ImageOffer {
  readonly vm: string;
  readonly imageId: Buffer;
  readonly ramPages: number;
}

/** What the source knows of its guest. */
export interface GuestToMove {
  readonly vm: string;
  readonly ramPages: number;
  /**
   * Every write since the state with this id has been seen, and the pages are still known: the id
   * that the guest's last departure from the destination was given, while no tracker was lost,
   * no checkpoint loaded and no agent restarted since. Undefined in all other cases.
   */
  readonly trackedSince: Buffer | undefined;
}

/**
 * `changed`: only what was tracked as written is sent, no digest is taken. `digests`: all pages are
 * compared by digest. `full`: as if there were no image.
 */
export type ReusePlan =
  | { readonly kind: 'changed' }
  | { readonly kind: 'digests' }
  | { readonly kind: 'full'; readonly reason: string };

/** How the image is used. The offer is the peer's word; the plan is right even if it is odd. */
export function planReuse(guest: GuestToMove, offer: ImageOffer | undefined): ReusePlan {
  if (offer === undefined) return { kind: 'full', reason: 'The destination has no image' };
  if (offer.vm !== guest.vm) {
    return { kind: 'full', reason: `The image is of the guest ${JSON.stringify(offer.vm)}` };
  }
  if (offer.ramPages !== guest.ramPages) {
    const reason = `The image has ${offer.ramPages} pages, the guest ${guest.ramPages}`;
    return { kind: 'full', reason };
  }
  return guest.trackedSince?.equals(offer.imageId) === true
    ? { kind: 'changed' }
    : { kind: 'digests' };
}

/** Gathers which pages differ, batch by batch, in ascending order. */
export class DigestComparison {
  readonly #differing: PageBitmap;
  #next = 0;

  constructor(ramPages: number) {
    this.#differing = new PageBitmap(ramPages);
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
