/**
 * The digest by which two hosts agree that they have the same page without sending it: the first
 * 128 bits of SHA-256 over a random salt and the page; zeroes for a page of zeroes.
 *
 * Whoever can make two pages with one digest can make the guest run on with the wrong one, and a
 * process in the guest is free to choose what its pages hold. So the function is one for which
 * nobody knows how to find collisions, and the salt, which the guest never sees and which every
 * image draws anew, takes from it even the 2^64 attempts that 128 bits allow in advance. By chance,
 * 2^24 pages compared every second for a century collide with probability below 2^-80.
 *
 * A salt of 16 bytes fits into the last of the 65 blocks that SHA-256 needs for a page anyway.
 */
import { createHash } from 'node:crypto';
import { assert, PAGE_SIZE_BYTES } from '../../lib/index.js';
import type { PageBitmap } from '../pages/page-bitmap.js';
import type { PageSource } from '../pages/page-encoder.js';
import { DIGEST_BYTES, SALT_BYTES } from './limits.js';

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE_BYTES);

/** Where pages are read, and which of them may be other than zero. */
export interface DigestedPages {
  readonly source: PageSource;
  readonly present: PageBitmap;
  readonly salt: Buffer;
}

/**
 * Digests of consecutive pages, 16 bytes each. A page that was never touched is not read: reading
 * it could use memory for it.
 */
export function digestPresent(
  { source, present, salt }: DigestedPages,
  first: number,
  count: number,
): Buffer {
  const digests = Buffer.alloc(count * DIGEST_BYTES);
  for (const run of present.runs(first, first + count)) {
    const pages = Buffer.allocUnsafe(run.count * PAGE_SIZE_BYTES);
    source.copyOut(run.first * PAGE_SIZE_BYTES, pages);
    const at = (run.first - first) * DIGEST_BYTES;
    digestPages(salt, pages, digests.subarray(at, at + run.count * DIGEST_BYTES));
  }
  return digests;
}

/** Writes the digest of each page in `pages` to `target`, 16 bytes each. About 1 GB/s. */
export function digestPages(salt: Buffer, pages: Buffer, target: Buffer): void {
  assert(salt.length === SALT_BYTES, `A salt of ${salt.length} bytes`);
  const count = pages.length / PAGE_SIZE_BYTES;
  assert(Number.isInteger(count) && target.length === count * DIGEST_BYTES, 'Lengths do not fit');
  for (let index = 0; index < count; index++) {
    const page = pages.subarray(index * PAGE_SIZE_BYTES, (index + 1) * PAGE_SIZE_BYTES);
    const at = index * DIGEST_BYTES;
    if (page.readInt32LE(0) === 0 && page.compare(ZERO_PAGE) === 0) {
      target.fill(0, at, at + DIGEST_BYTES);
    } else {
      createHash('sha256').update(salt).update(page).digest().copy(target, at, 0, DIGEST_BYTES);
    }
  }
}
