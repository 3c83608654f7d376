import test from 'ava';
import fc from 'fast-check';
import { PAGE_SIZE_BYTES } from '../../../src/lib/index.js';
import { PageSet } from '../../../src/secondary/page-set.js';

const PAGES = 64;
const CHUNK_PAGES = 8;

test('a set gives back the pages that were added, in order, in pieces that keep to their chunk', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(PAGES - 1), fc.integer({ min: 1, max: 12 })), { maxLength: 12 }),
      (runs) => {
        const set = new PageSet(PAGES);
        const model = new Set<number>();
        for (const [first, count] of runs) {
          const pages = Math.min(count, PAGES - first);
          set.add({ offset: first * PAGE_SIZE_BYTES, length: pages * PAGE_SIZE_BYTES });
          for (let page = first; page < first + pages; page++) model.add(page);
        }
        t.is(set.size, model.size);
        const seen: number[] = [];
        for (const { offset, length } of set.ranges(CHUNK_PAGES * PAGE_SIZE_BYTES)) {
          const first = offset / PAGE_SIZE_BYTES;
          const last = first + length / PAGE_SIZE_BYTES - 1;
          t.is(Math.floor(first / CHUNK_PAGES), Math.floor(last / CHUNK_PAGES));
          for (let page = first; page <= last; page++) seen.push(page);
        }
        t.deepEqual(
          seen,
          [...model].sort((a, b) => a - b),
        );
        set.clear();
        t.is(set.size, 0);
        t.deepEqual([...set.ranges(PAGE_SIZE_BYTES)], []);
      },
    ),
    { numRuns: 200 },
  );
});
