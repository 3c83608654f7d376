/**
 * Sends what the page cache has of a file into a socket without copying it here: the socket refers
 * to the cache's pages. Linux man cachestat(2) (6.5), sendfile(2).
 */
import koffi from 'koffi';
import { libc, SystemCallError } from './libc.js';

const CACHESTAT = 451;
const EINTR = 4;
const EAGAIN = 11;
const PAGE_BYTES = 4096;

const cachestat = libc.func(
  'long syscall(long number, unsigned int fd, uintptr_t range, uintptr_t result, unsigned int flags)',
) as (number: number, fd: number, range: number, result: number, flags: number) => number;
const sendfile = libc.func('long sendfile(int to, int from, uintptr_t offset, size_t count)') as (
  to: number,
  from: number,
  offset: number,
  count: number,
) => number;
const writeFile = libc.func('long write(int fd, uintptr_t buffer, size_t size)') as (
  fd: number,
  address: number,
  size: number,
) => number;

/** Offset, length; cached, dirty, in writeback, evicted, recently evicted pages. */
const range = new BigUint64Array(2);
const result = new BigUint64Array(5);
const position = new BigInt64Array(1);
const addresses = [range, result, position].map((each) => Number(koffi.address(each)));

/** Whether every page of the range is in the page cache; false where the kernel can't tell. */
export function isCached(fd: number, offset: number, length: number): boolean {
  range[0] = BigInt(offset);
  range[1] = BigInt(length);
  const [rangeAt = 0, resultAt = 0] = addresses;
  if (Number(cachestat(CACHESTAT, fd, rangeAt, resultAt, 0)) !== 0) return false;
  const pages =
    Math.floor((offset + length - 1) / PAGE_BYTES) - Math.floor(offset / PAGE_BYTES) + 1;
  return result[0] === BigInt(pages);
}

/** As many bytes as a socket that does not block takes now. Throws SystemCallError. */
export function sendNow(fd: number, bytes: Buffer): number {
  const sent = Number(writeFile(fd, Number(koffi.address(bytes)), bytes.length));
  if (sent >= 0) return sent;
  const errno = koffi.errno();
  if (errno === EAGAIN || errno === EINTR) return 0;
  throw new SystemCallError('write', errno);
}

/**
 * The same, of a file's bytes. An error counts as a socket that takes no more: whoever reads or
 * writes the rest in another way meets it again, and knows whose it is.
 */
export function sendFileNow(
  to: number,
  from: number,
  { offset, length }: { readonly offset: number; readonly length: number },
): number {
  for (let sent = 0; ; ) {
    if (sent === length) return sent;
    position[0] = BigInt(offset + sent);
    const count = Number(sendfile(to, from, addresses[2] ?? 0, length - sent));
    if (count <= 0) return sent;
    sent += count;
  }
}
