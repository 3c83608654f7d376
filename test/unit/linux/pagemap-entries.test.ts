/**
 * The soft-dirty tracker is tested here on its bits only where the kernel lacks CONFIG_MEM_SOFT_DIRTY;
 * with it, the compliance suite runs it too.
 */
import test from 'ava';
import type { PageRange } from '../../../src/lib/index.js';
import {
  collectPresentPrivate,
  collectPrivate,
  collectSoftDirty,
} from '../../../src/linux/pagemap-entries.js';

const PRESENT = 1n << 63n;
const SWAPPED = 1n << 62n;
const FILE = 1n << 61n;
const SOFT_DIRTY = 1n << 55n;
const PAGE = 4096;

function entries(...values: bigint[]): Buffer {
  return Buffer.from(BigUint64Array.from(values).buffer);
}

test('soft-dirty pages are joined and counted from the first offset', (t) => {
  const ranges: PageRange[] = [];
  const dirty = PRESENT | SOFT_DIRTY | 0x1234n;
  collectSoftDirty(entries(dirty, PRESENT | FILE, dirty, SOFT_DIRTY, 0n), 16 * PAGE, ranges);
  t.deepEqual(ranges, [
    { offset: 16 * PAGE, length: PAGE },
    { offset: 18 * PAGE, length: 2 * PAGE },
  ]);
});

test('a range goes on into the next piece of entries', (t) => {
  const ranges: PageRange[] = [];
  collectSoftDirty(entries(0n, SOFT_DIRTY), 0, ranges);
  collectSoftDirty(entries(SOFT_DIRTY, 0n), 2 * PAGE, ranges);
  t.deepEqual(ranges, [{ offset: PAGE, length: 2 * PAGE }]);
});

test('private pages are present or swapped and belong to no file', (t) => {
  const all = entries(PRESENT, PRESENT | FILE, SWAPPED, SWAPPED | FILE, 0n, FILE, PRESENT);
  const found: PageRange[] = [];
  collectPrivate(all, 0, found);
  t.deepEqual(found, [
    { offset: 0, length: PAGE },
    { offset: 2 * PAGE, length: PAGE },
    { offset: 6 * PAGE, length: PAGE },
  ]);
  const present: PageRange[] = [];
  collectPresentPrivate(all, 0, present);
  t.deepEqual(present, [
    { offset: 0, length: PAGE },
    { offset: 6 * PAGE, length: PAGE },
  ]);
});
