import type { PageRange } from './pages.js';

/** Appends `range`, joined to the last one where they touch; ranges come in ascending order. */
export function appendRange(ranges: PageRange[], range: PageRange): void {
  const last = ranges.at(-1);
  if (last !== undefined && last.offset + last.length === range.offset) {
    ranges[ranges.length - 1] = { offset: last.offset, length: last.length + range.length };
  } else {
    ranges.push(range);
  }
}

/** The pages in any of the two lists, ascending and joined; each list is ascending in itself. */
export function uniteRanges(a: readonly PageRange[], b: readonly PageRange[]): PageRange[] {
  const united: PageRange[] = [];
  for (const range of [...a, ...b].sort((x, y) => x.offset - y.offset)) {
    const last = united.at(-1);
    const lastEnd = last === undefined ? 0 : last.offset + last.length;
    const end = range.offset + range.length;
    if (last === undefined || range.offset > lastEnd) united.push(range);
    else if (end > lastEnd) {
      united[united.length - 1] = { offset: last.offset, length: end - last.offset };
    }
  }
  return united;
}

/** The pages in both lists, ascending; each list is ascending and without overlaps in itself. */
export function intersectRanges(a: readonly PageRange[], b: readonly PageRange[]): PageRange[] {
  const common: PageRange[] = [];
  let [i, j] = [0, 0];
  for (;;) {
    const [x, y] = [a[i], b[j]];
    if (x === undefined || y === undefined) return common;
    const [xEnd, yEnd] = [x.offset + x.length, y.offset + y.length];
    const offset = Math.max(x.offset, y.offset);
    const length = Math.min(xEnd, yEnd) - offset;
    if (length > 0) common.push({ offset, length });
    if (xEnd <= yEnd) i++;
    else j++;
  }
}

/** Of all of them. */
export function countBytes(ranges: readonly PageRange[]): number {
  return ranges.reduce((sum, { length }) => sum + length, 0);
}
