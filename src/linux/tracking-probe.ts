/**
 * Does this kernel report written pages? Not decided by version or configuration: a page of a
 * shared memory file is written and the kernel is asked about it, as it will be for a guest.
 */
import { closeSync } from 'node:fs';
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { check, libc, SystemCallError } from './libc.js';
import { createMemoryFile } from './memory-file.js';
import { MemoryMap } from './memory-map.js';
import { clearSoftDirty, type Mapping, PagemapReader, PagemapScanner } from './pagemap.js';

const SYS_USERFAULTFD = 323;
const O_CLOEXEC_NONBLOCK = 0x80800;
const UFFDIO_API = 0xc018aa3f;
const UFFDIO_REGISTER = 0xc020aa00;
const UFFD_API = 0xaan;
const REGISTER_MODE_WP = 2n;
/** WP_ASYNC, WP_UNPOPULATED, WP_HUGETLBFS_SHMEM: what the preload library asks for. */
const FEATURES = 0xb000n;
const PROBE_PAGES = 4;
const WRITTEN_PAGE = 2;

const syscall = libc.func('long syscall(long number, long flags)') as (
  number: number,
  flags: number,
) => number;
const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)') as (
  fd: number,
  request: number,
  argument: Buffer,
) => number;

/** Undefined when userfaultfd tracking works here, else the reason why it does not. */
export function probeUserfaultfd(): string | undefined {
  return probe((map, mapping) => {
    const fd = check('userfaultfd', syscall(SYS_USERFAULTFD, O_CLOEXEC_NONBLOCK));
    let scanner: PagemapScanner | undefined;
    try {
      check('UFFDIO_API', ioctl(fd, UFFDIO_API, words(UFFD_API, FEATURES, 0n)));
      const register = words(BigInt(map.address), BigInt(map.sizeBytes), REGISTER_MODE_WP, 0n);
      check('UFFDIO_REGISTER', ioctl(fd, UFFDIO_REGISTER, register));
      scanner = new PagemapScanner(mapping);
      scanner.takeWritten();
      writePage(map);
      return scanner.takeWritten();
    } finally {
      scanner?.close();
      closeSync(fd);
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

function words(...values: readonly bigint[]): Buffer {
  const bytes = Buffer.alloc(values.length * 8);
  values.forEach((value, i) => {
    bytes.writeBigUInt64LE(value, i * 8);
  });
  return bytes;
}
