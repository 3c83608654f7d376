import test from 'ava';
import fc from 'fast-check';
import { PageBitmap } from '../../../src/migration/index.js';

const operation = fc.record({
  value: fc.boolean(),
  first: fc.nat(500),
  count: fc.oneof(fc.nat(5), fc.nat(500)),
});

function build(pages: number, operations: { value: boolean; first: number; count: number }[]) {
  const bitmap = new PageBitmap(pages);
  const model = new Array<boolean>(pages).fill(false);
  for (const { value, first, count } of operations) {
    if (first > pages) continue;
    const fits = Math.min(count, pages - first);
    if (value) bitmap.set(first, fits);
    else bitmap.clear(first, fits);
    model.fill(value, first, first + fits);
  }
  return { bitmap, model };
}

test('a bitmap of pages agrees with an array of booleans', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 600 }), fc.array(operation), (pages, operations) => {
      const { bitmap, model } = build(pages, operations);
      const set = model.flatMap((value, page) => (value ? [page] : []));
      t.is(bitmap.count, set.length);
      t.deepEqual(pagesOf(bitmap.runs()), set);
      t.is(bitmap.next(), set[0]);
      const [from, to] = [Math.floor(pages / 3), Math.ceil((2 * pages) / 3)];
      const inside = set.filter((page) => page >= from && page < to);
      t.deepEqual(pagesOf(bitmap.runs(from, to)), inside);
      t.is(bitmap.countIn(from, to - from), inside.length);
      t.is(
        bitmap.next(from),
        set.find((page) => page >= from),
      );
      for (const [page, value] of model.entries()) t.is(bitmap.has(page), value);
      t.true(bitmap.clone().equals(bitmap));
      // Runs are joined as far as they go.
      const runs = [...bitmap.runs()];
      for (const [n, run] of runs.entries()) {
        t.true(n === 0 || run.first > (runs[n - 1]?.first ?? 0) + (runs[n - 1]?.count ?? 0));
      }
    }),
    { numRuns: 200 },
  );
});

function pagesOf(runs: Iterable<{ first: number; count: number }>): number[] {
  return [...runs].flatMap(({ first, count }) =>
    Array.from({ length: count }, (_, n) => first + n),
  );
}
