/**
 * Does this kernel report written pages? Not decided by version or configuration: a page of a
 * shared memory file is written and the kernel is asked about it, as it will be for a guest.
 */
import { closeSync } from 'node:fs';
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { SystemCallError } from './libc.js';
import { createMemoryFile } from './memory-file.js';
import { MemoryMap } from './memory-map.js';
import { clearSoftDirty, type Mapping, PagemapReader, PagemapScanner } from './pagemap.js';
import { Userfaultfd } from './userfaultfd.js';

const PROBE_PAGES = 4;
const WRITTEN_PAGE = 2;

/** Undefined when userfaultfd tracking works here, else the reason why it does not. */
export function probeUserfaultfd(): string | undefined {
  return probe((map, mapping) => {
    const userfaultfd = Userfaultfd.open();
    let scanner: PagemapScanner | undefined;
    try {
      userfaultfd.track(map.address, map.sizeBytes);
      scanner = new PagemapScanner(mapping);
      scanner.takeWritten();
      writePage(map);
      return scanner.takeWritten();
    } finally {
      scanner?.close();
      userfaultfd.close();
    }
  });
}

/** Undefined when soft-dirty tracking works here, else the reason why it does not. */
export function probeSoftDirty(): string | undefined {
  return probe((map, mapping) => {
    const reader = new PagemapReader(mapping);
    try {
      for (let page = 0; page < PROBE_PAGES; page++)
        map.write(page * PAGE_SIZE_BYTES, Buffer.of(1));
      clearSoftDirty(mapping.pid);
      writePage(map);
      return reader.takeSoftDirty();
    } finally {
      reader.close();
    }
  });
}

function probe(
  writtenPages: (map: MemoryMap, mapping: Mapping) => PageRange[],
): string | undefined {
  const sizeBytes = PROBE_PAGES * PAGE_SIZE_BYTES;
  const fd = createMemoryFile('colo-probe', sizeBytes);
  const map = MemoryMap.ofFile(fd, sizeBytes);
  try {
    const mapping = { pid: process.pid, address: map.address, length: sizeBytes };
    const found = writtenPages(map, mapping);
    const only = found.length === 1 ? found[0] : undefined;
    const right =
      only?.offset === WRITTEN_PAGE * PAGE_SIZE_BYTES && only.length === PAGE_SIZE_BYTES;
    return right ? undefined : `one page was written, the kernel reported ${JSON.stringify(found)}`;
  } catch (error) {
    if (error instanceof SystemCallError) return error.message;
    throw error;
  } finally {
    map.close();
    closeSync(fd);
  }
}

function writePage(map: MemoryMap): void {
  map.write(WRITTEN_PAGE * PAGE_SIZE_BYTES, Buffer.of(2));
}
