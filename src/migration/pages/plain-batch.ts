/** A batch of pages that somebody waits for: as they are, in the memory that they are in. */
import { PAGE_SIZE_BYTES } from '../../lib/index.js';
import type { PageBatch, PageRun } from './page-batch.js';

const ZEROES = Buffer.alloc(PAGE_SIZE_BYTES);

/** Whole pages from page `first` on; none at all make an empty batch. `bytes` is borrowed. */
export function plainBatch(first: number, bytes: Buffer): PageBatch {
  const pages = bytes.length / PAGE_SIZE_BYTES;
  const runs: { first: number; count: number; readonly kind: PageRun['kind'] }[] = [];
  const raw: Buffer[] = [];
  for (let page = 0; page < pages; page += 1) {
    const content = bytes.subarray(page * PAGE_SIZE_BYTES, (page + 1) * PAGE_SIZE_BYTES);
    const kind = content.equals(ZEROES) ? 'zero' : 'raw';
    if (kind === 'raw') raw.push(content);
    const last = runs.at(-1);
    if (last?.kind === kind) last.count += 1;
    else runs.push({ first: first + page, count: 1, kind });
  }
  return { runs, pages, data: raw.length === pages ? bytes : Buffer.concat(raw) };
}
