/**
 * Files as disks: holes, sparse extents and whole-file locks, which Node's fs lacks.
 * Sources: fallocate(2), lseek(2), flock(2), fcntl(2).
 */
import koffi from 'koffi';
import { check, libc, SystemCallError } from './libc.js';

const KEEP_SIZE = 0x01;
const PUNCH_HOLE = 0x02;
const ZERO_RANGE = 0x10;
const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const LOCK_SHARED = 1;
const LOCK_EXCLUSIVE = 2;
const LOCK_NOW = 4;
const F_OFD_GETLK = 36;
/** struct flock of x86-64: type and whence as 16 bits, start at 8, length at 16, PID at 24. */
const FLOCK_BYTES = 32;
const F_WRLCK = 1;
const F_UNLCK = 2;
const ENXIO = 6;
const EWOULDBLOCK = 11;

const fallocate = libc.func('int fallocate(int, int, int64_t, int64_t)');
const lseek = libc.func('int64_t lseek(int, int64_t, int)') as (
  fd: number,
  offset: number,
  whence: number,
) => number | bigint;
const flock = libc.func('int flock(int, int)') as (fd: number, operation: number) => number;
const fcntl = libc.func('int fcntl(int, int, ...)') as (
  fd: number,
  command: number,
  type: 'void *',
  lock: Buffer,
) => number;

/** Off the event loop, because a file system may take long over it. The errno is not known. */
function change(fd: number, mode: number, offset: number, length: number): Promise<boolean> {
  return new Promise((resolve) => {
    fallocate.async(fd, mode | KEEP_SIZE, offset, length, (error: unknown, result: number) =>
      resolve(error === null && result === 0),
    );
  });
}

/** The range reads as zeroes and its space is given back; false where that is not possible. */
export function punchHole(fd: number, offset: number, length: number): Promise<boolean> {
  return change(fd, PUNCH_HOLE, offset, length);
}

/** The range reads as zeroes and keeps its space; false where the file system can not do it. */
export function zeroRange(fd: number, offset: number, length: number): Promise<boolean> {
  return change(fd, ZERO_RANGE, offset, length);
}

/** Size in bytes of a regular file or a block device. Moves the file position. */
export function seekSize(fd: number): number {
  return check('lseek', lseek(fd, 0, SEEK_END));
}

/** Start of the first data at or after `offset`; undefined when only a hole follows. */
export function seekData(fd: number, offset: number): number | undefined {
  const found = Number(lseek(fd, offset, SEEK_DATA));
  if (found >= 0) return found;
  if (koffi.errno() === ENXIO) return undefined;
  throw new SystemCallError('lseek', koffi.errno());
}

/** Start of the first hole at or after `offset`; the end of the file counts as one. */
export function seekHole(fd: number, offset: number): number {
  return check('lseek', lseek(fd, offset, SEEK_HOLE));
}

/**
 * Locks the open file for its description's life, for one holder or for several that only read;
 * false when somebody else has it.
 */
export function lockFile(fd: number, kind: 'exclusive' | 'shared'): boolean {
  const operation = kind === 'exclusive' ? LOCK_EXCLUSIVE : LOCK_SHARED;
  if (flock(fd, operation | LOCK_NOW) === 0) return true;
  if (koffi.errno() === EWOULDBLOCK) return false;
  throw new SystemCallError('flock', koffi.errno());
}

/** Whether anybody else has a record lock (fcntl) on any byte of the range. */
export function isRangeLocked(fd: number, offset: number, length: number): boolean {
  const lock = Buffer.alloc(FLOCK_BYTES);
  lock.writeInt16LE(F_WRLCK, 0);
  lock.writeBigInt64LE(BigInt(offset), 8);
  lock.writeBigInt64LE(BigInt(length), 16);
  check('fcntl F_OFD_GETLK', fcntl(fd, F_OFD_GETLK, 'void *', lock));
  return lock.readInt16LE(0) !== F_UNLCK;
}
