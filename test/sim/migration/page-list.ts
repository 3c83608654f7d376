/** Pages of the simulation as its batches have them. */
import { PAGE_SIZE_BYTES, type PageRange } from '../../../src/lib/index.js';

/** Pages and their versions. */
export type PageList = readonly (readonly [page: number, version: number])[];

export const encodePages = (pages: PageList): Buffer => Buffer.from(JSON.stringify(pages));
export const decodePages = (bytes: Buffer): PageList => JSON.parse(bytes.toString()) as PageList;

export function pagesIn(ranges: readonly PageRange[]): number[] {
  return ranges.flatMap(({ offset, length }) =>
    Array.from({ length: length / PAGE_SIZE_BYTES }, (_, i) => offset / PAGE_SIZE_BYTES + i),
  );
}

/** Of ascending pages, each a range of its own. */
export function rangesOf(pages: readonly number[]): PageRange[] {
  return pages.map((page) => ({ offset: page * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES }));
}
