/** Pages of guest RAM by number, for tests that compare. */
import type { Emulator } from '../../src/emulator/index.js';
import { PAGE_SIZE_BYTES, type PageRange } from '../../src/lib/index.js';

export function ramOf(emulator: Emulator): Buffer {
  const ram = Buffer.alloc(emulator.ram.sizeBytes);
  emulator.ram.copyOut(0, ram);
  return ram;
}

export function pagesOf(ranges: readonly PageRange[]): Set<number> {
  const pages = new Set<number>();
  for (const { offset, length } of ranges) {
    for (let at = 0; at < length; at += PAGE_SIZE_BYTES) pages.add((offset + at) / PAGE_SIZE_BYTES);
  }
  return pages;
}

export function differingPages(a: Buffer, b: Buffer): number[] {
  const pages: number[] = [];
  for (let at = 0; at < a.length; at += PAGE_SIZE_BYTES) {
    const end = at + PAGE_SIZE_BYTES;
    if (a.compare(b, at, end, at, end) !== 0) pages.push(at / PAGE_SIZE_BYTES);
  }
  return pages;
}
