/**
 * Reads of what the page cache has, on the calling thread: a microsecond or two instead of the way
 * through a pool of threads and back. Linux man preadv2(2), RWF_NOWAIT.
 */
import koffi from 'koffi';
import { libc, SystemCallError } from './libc.js';

const RWF_NOWAIT = 8;
const EINTR = 4;
const EAGAIN = 11;
const EOPNOTSUPP = 95;

const preadv2 = libc.func(
  'long preadv2(int fd, uintptr_t vector, int count, long offset, int flags)',
) as (fd: number, vector: number, count: number, offset: number, flags: number) => number;

/** struct iovec: base u64, length u64, little-endian on the machines that we run on. */
const iovec = new BigUint64Array(2);
const iovecAddress = Number(koffi.address(iovec));

/**
 * Fills `target` from `offset` of the file as far as that needs no waiting; returns the bytes, 0 if
 * it would have to wait at once or is at its end. Throws SystemCallError.
 */
export function readCached(fd: number, offset: number, target: Uint8Array): number {
  iovec[0] = BigInt(koffi.address(target));
  iovec[1] = BigInt(target.length);
  const count = Number(preadv2(fd, iovecAddress, 1, offset, RWF_NOWAIT));
  if (count >= 0) return count;
  const errno = koffi.errno();
  if (errno === EAGAIN || errno === EOPNOTSUPP || errno === EINTR) return 0;
  throw new SystemCallError('preadv2', errno);
}

const POSIX_FADV_DONTNEED = 4;
const fadvise = libc.func('int posix_fadvise(int, int64_t, int64_t, int)') as (
  fd: number,
  offset: number,
  length: number,
  advice: number,
) => number;

/** The next reads of the file ask its device; what was written and not synced stays cached. */
export function dropCached(fd: number): void {
  const errno = fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  if (errno !== 0) throw new SystemCallError('posix_fadvise', errno);
}
