/**
 * Files that exist only in memory (memfd_create(2)) and what is done to them: they have no name, so
 * nothing can be left behind, and a child gets them by inheriting the file descriptor.
 */
import { closeSync, ftruncateSync } from 'node:fs';
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { seekData, seekHole } from './fallocate.js';
import { check, fcntl, libc } from './libc.js';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

const memfdCreate = libc.func('int memfd_create(const char *name, unsigned int flags)') as (
  name: string,
  flags: number,
) => number;
const fallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)') as (
  fd: number,
  mode: number,
  offset: number,
  length: number,
) => number;

/** A new memory file of `sizeBytes` zeroes, none of them allocated. The caller closes the fd. */
export function createMemoryFile(name: string, sizeBytes: number): number {
  return create(name, sizeBytes, 0);
}

/**
 * The same, of that size for good: it may be mapped by whoever would not survive to find it
 * smaller.
 */
export function createSealedMemoryFile(name: string, sizeBytes: number): number {
  return create(name, sizeBytes, F_SEAL_SHRINK | F_SEAL_GROW);
}

function create(name: string, sizeBytes: number, seals: number): number {
  const flags = MFD_CLOEXEC | (seals === 0 ? 0 : MFD_ALLOW_SEALING);
  const fd = check('memfd_create', memfdCreate(name, flags));
  try {
    ftruncateSync(fd, sizeBytes);
    if (seals !== 0) fcntl(fd, 'F_ADD_SEALS', seals);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return fd;
}

/** Gives the pages of the range back to the system; they read as zeroes afterwards. */
export function discardPages(fd: number, range: PageRange): void {
  const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  check('fallocate', fallocate(fd, mode, range.offset, range.length));
}

/** The parts of a file that are not holes, ascending, widened to whole pages. */
export function dataExtents(fd: number, { offset, length }: PageRange): PageRange[] {
  const extents: PageRange[] = [];
  const last = offset + length;
  let at = offset;
  while (at < last) {
    const data = seekData(fd, at);
    if (data === undefined || data >= last) break;
    const hole = seekHole(fd, data);
    const start = data - (data % PAGE_SIZE_BYTES);
    const end = Math.ceil(Math.min(hole, last) / PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES;
    extents.push({ offset: start, length: end - start });
    at = end;
  }
  return extents;
}
