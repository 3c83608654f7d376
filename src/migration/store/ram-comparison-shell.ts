/**
 * Compares a running guest's RAM with one that another host has, by the digests that it sends: a
 * batch in, out which of its pages must be sent. See reuse.ts for the order that makes it right.
 */
import { PAGE_SIZE_BYTES, type PageRange, ProtocolError } from '../../lib/index.js';
import { type PageBitmap, pageBitmapOf } from '../pages/page-bitmap.js';
import type { PageSource } from '../pages/page-encoder.js';
import { DigestDecoder, isZeroDigest } from './digest-wire.js';
import { DIGEST_BYTES } from './limits.js';
import { type DigestedPages, digestPresent } from './page-digest-shell.js';
import { DigestComparison } from './reuse.js';

export interface RamComparisonOptions {
  readonly ram: PageSource & { readonly sizeBytes: number };
  /** Of the digests; SALT_BYTES. */
  readonly salt: Buffer;
  /** What is not in these is zero. From before they were asked for every write is seen. */
  readonly present: readonly PageRange[];
}

/** What came of one batch. */
export interface ComparedPages {
  readonly first: number;
  readonly count: number;
  /** Those that must be sent, ascending. */
  readonly differing: readonly PageRange[];
  /** Those that are not zero and need not be sent. */
  readonly same: number;
}

export class RamComparison {
  readonly #pages: DigestedPages;
  readonly #decoder: DigestDecoder;
  readonly #comparison: DigestComparison;

  constructor({ ram, salt, present }: RamComparisonOptions) {
    const pages = ram.sizeBytes / PAGE_SIZE_BYTES;
    this.#pages = { source: ram, present: pageBitmapOf(pages, present), salt };
    this.#decoder = new DigestDecoder(pages);
    this.#comparison = new DigestComparison(pages);
  }

  /** All of RAM has been compared. */
  get isComplete(): boolean {
    return this.#decoder.finished;
  }

  /** The next batch, encoded. Throws ProtocolError for any that does not fit. About 1 GB/s. */
  add(bytes: Buffer): ComparedPages {
    const { first, digests: theirs } = this.#decoder.add(bytes);
    const count = theirs.length / DIGEST_BYTES;
    const ours = digestPresent(this.#pages, first, count);
    this.#comparison.add(first, theirs, ours);
    const { differing } = this.#comparison;
    let same = 0;
    for (let page = 0; page < count; page++) {
      if (!differing.has(first + page) && !isZeroDigest(ours, page * DIGEST_BYTES)) same += 1;
    }
    return { first, count, differing: [...differing.ranges(first, first + count)], same };
  }

  /** The pages that must be sent, once all have been compared; before that ProtocolError. */
  finish(): PageBitmap {
    const differing = this.#comparison.finished;
    if (differing === undefined) throw new ProtocolError('The last digests came too early');
    return differing;
  }
}
