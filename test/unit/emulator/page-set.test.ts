import test from 'ava';
import fc from 'fast-check';
import { PageSet } from '../../../src/emulator/index.js';
import { appendRange, PAGE_SIZE_BYTES, type PageRange } from '../../../src/lib/index.js';

const PAGES = 100;
const rangeOf = (page: number, count: number): PageRange => ({
  offset: page * PAGE_SIZE_BYTES,
  length: count * PAGE_SIZE_BYTES,
});

test('it holds what a set of page numbers holds', (t) => {
  const range = fc
    .tuple(fc.nat(PAGES), fc.nat(PAGES))
    .map(([a, b]) => rangeOf(Math.min(a, b), Math.abs(a - b)));
  const change = fc.record({ kind: fc.constantFrom('add', 'delete'), range });
  fc.assert(
    fc.property(fc.array(change), range, (changes, asked) => {
      const set = new PageSet(PAGES * PAGE_SIZE_BYTES);
      const model = new Set<number>();
      for (const { kind, range } of changes) {
        if (kind === 'add') set.add(range);
        else set.delete(range);
        for (let at = range.offset; at < range.offset + range.length; at += PAGE_SIZE_BYTES) {
          if (kind === 'add') model.add(at / PAGE_SIZE_BYTES);
          else model.delete(at / PAGE_SIZE_BYTES);
        }
      }
      t.is(set.count, model.size);
      t.deepEqual(set.ranges(), modelRanges(model, rangeOf(0, PAGES)));
      t.deepEqual(set.within(asked), modelRanges(model, asked));
      for (let page = 0; page < PAGES; page++) {
        t.is(set.has(page * PAGE_SIZE_BYTES + 5), model.has(page));
      }
    }),
  );
});

test('what is not made of pages of RAM is a bug', (t) => {
  const set = new PageSet(PAGES * PAGE_SIZE_BYTES);
  for (const range of [rangeOf(PAGES, 1), rangeOf(-1, 1), rangeOf(0, -1), rangeOf(0.5, 1)]) {
    t.throws(() => set.add(range), { code: 'COLO_E_BUG' });
    t.throws(() => set.within(range), { code: 'COLO_E_BUG' });
  }
  t.throws(() => new PageSet(100), { code: 'COLO_E_BUG' });
  t.is(set.count, 0);
});

function modelRanges(model: ReadonlySet<number>, { offset, length }: PageRange): PageRange[] {
  const ranges: PageRange[] = [];
  for (const page of [...model].sort((a, b) => a - b)) {
    const at = page * PAGE_SIZE_BYTES;
    if (at >= offset && at < offset + length) appendRange(ranges, rangeOf(page, 1));
  }
  return ranges;
}
