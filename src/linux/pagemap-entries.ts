/**
 * /proc/<pid>/pagemap as bytes (kernel Documentation/admin-guide/mm/pagemap.rst): one little-endian
 * 64-bit entry per page. Used where the PAGEMAP_SCAN ioctl is missing (Linux < 6.7).
 *
 * | bit | meaning                                   |
 * |-----|-------------------------------------------|
 * | 55  | written since clear_refs (CONFIG_MEM_SOFT_DIRTY) |
 * | 61  | the page belongs to a file or shared memory |
 * | 62  | the page is swapped out                   |
 * | 63  | the page is present                       |
 */
import { appendRange, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';

export const PAGEMAP_ENTRY_BYTES = 8;

const SOFT_DIRTY = 1 << 23;
const FILE = 1 << 29;
const SWAPPED = 1 << 30;
const PRESENT = 1 << 31;

/** Appends the pages, `firstOffset` being that of the first entry, that `selects` the entry of. */
function collect(
  entries: Buffer,
  firstOffset: number,
  ranges: PageRange[],
  selects: (high: number) => boolean,
): void {
  for (let at = 0; at + PAGEMAP_ENTRY_BYTES <= entries.length; at += PAGEMAP_ENTRY_BYTES) {
    if (!selects(entries.readInt32LE(at + 4))) continue;
    const offset = firstOffset + (at / PAGEMAP_ENTRY_BYTES) * PAGE_SIZE_BYTES;
    appendRange(ranges, { offset, length: PAGE_SIZE_BYTES });
  }
}

/** Pages written since the soft-dirty bits were cleared. */
export function collectSoftDirty(entries: Buffer, firstOffset: number, ranges: PageRange[]): void {
  collect(entries, firstOffset, ranges, (high) => (high & SOFT_DIRTY) !== 0);
}

/** Pages of a private file mapping that the process has its own copy of, in memory. */
export function collectPresentPrivate(
  entries: Buffer,
  firstOffset: number,
  ranges: PageRange[],
): void {
  collect(entries, firstOffset, ranges, (high) => (high & (PRESENT | FILE)) === PRESENT);
}

/** Pages of a private file mapping that the process has its own copy of, swapped out or not. */
export function collectPrivate(entries: Buffer, firstOffset: number, ranges: PageRange[]): void {
  collect(
    entries,
    firstOffset,
    ranges,
    (high) => (high & (PRESENT | SWAPPED)) !== 0 && (high & FILE) === 0,
  );
}
