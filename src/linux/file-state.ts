/** What can be known of a file without reading it. */
import type { BigIntStats } from 'node:fs';
import koffi from 'koffi';
import { check, libc } from './libc.js';

const AT_EMPTY_PATH = 0x1000;
const AT_STATX_DONT_SYNC = 0x4000;
const STATX_NLINK = 4;
const STATX_SIZE = 0x200;
const NLINK_AT = 16;
const SIZE_AT = 40;

const statx = libc.func(
  'int statx(int fd, const char *path, int flags, unsigned int mask, uintptr_t result)',
) as (fd: number, path: string, flags: number, mask: number, result: number) => number;

/** struct statx. */
const answer = Buffer.alloc(256);
const answerAddress = Number(koffi.address(answer));

/**
 * Size in bytes and number of names, as far as this host knows: a file system of elsewhere is not
 * asked, so that it takes a microsecond or two. man statx(2). Throws SystemCallError.
 */
export function knownSize(fd: number): { sizeBytes: number; links: number } {
  const flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  check('statx', statx(fd, '', flags, STATX_NLINK | STATX_SIZE, answerAddress));
  return {
    sizeBytes: Number(answer.readBigUInt64LE(SIZE_AT)),
    links: answer.readUInt32LE(NLINK_AT),
  };
}

/**
 * By which a file is known to be the one that was read before, and not written since: equal as long
 * as the file is the same, with the same contents.
 */
export function fileState({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): bigint[] {
  return [dev, ino, size, mtimeNs, ctimeNs];
}
