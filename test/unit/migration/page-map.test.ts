import test from 'ava';
import { Prng } from '../../../src/lib/index.js';
import { PageMap, rangeOf } from '../../../src/migration/page-map.js';

test('a map holds what a set of page numbers does, whatever is put in and taken out', (t) => {
  const prng = new Prng(11);
  for (let round = 0; round < 300; round += 1) {
    const pages = prng.nextInt(1, 200);
    const map = new PageMap(pages);
    const expected = new Set<number>();
    for (let change = 0; change < 20; change += 1) {
      const first = prng.nextInt(0, pages);
      const count = prng.nextInt(0, pages - first);
      const range = Array.from({ length: count }, (_, index) => first + index);
      if (prng.chance(0.5)) {
        map.add(rangeOf(first, count));
        for (const page of range) expected.add(page);
      } else {
        map.delete(rangeOf(first, count));
        for (const page of range) expected.delete(page);
      }
    }
    const found = Array.from({ length: pages }, (_, page) => page).filter((page) => map.has(page));
    t.deepEqual(
      found,
      [...expected].sort((a, b) => a - b),
    );
    t.is(map.size, expected.size);
  }
});
