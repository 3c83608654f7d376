import test from 'ava';
import fc from 'fast-check';
import {
  appendRange,
  PAGE_SIZE_BYTES,
  type PageRange,
  uniteRanges,
} from '../../../src/lib/index.js';

const pageSet = fc.uniqueArray(fc.nat(40)).map((pages) => pages.sort((a, b) => a - b));

function toRanges(pages: readonly number[]): PageRange[] {
  const ranges: PageRange[] = [];
  for (const page of pages) {
    appendRange(ranges, { offset: page * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES });
  }
  return ranges;
}

test('pages appended in order become the shortest list of the same pages', (t) => {
  fc.assert(
    fc.property(pageSet, (pages) => {
      const ranges = toRanges(pages);
      const back = ranges.flatMap(({ offset, length }) =>
        Array.from({ length: length / PAGE_SIZE_BYTES }, (_, i) => offset / PAGE_SIZE_BYTES + i),
      );
      t.deepEqual(back, pages);
      for (const [i, range] of ranges.slice(1).entries()) {
        const before = ranges[i] as PageRange;
        t.true(before.offset + before.length < range.offset);
      }
    }),
  );
});

test('united ranges are those of the united pages', (t) => {
  fc.assert(
    fc.property(pageSet, pageSet, (a, b) => {
      const union = [...new Set([...a, ...b])].sort((x, y) => x - y);
      t.deepEqual(uniteRanges(toRanges(a), toRanges(b)), toRanges(union));
    }),
  );
});
