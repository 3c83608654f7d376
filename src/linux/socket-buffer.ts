/** How much of a socket's stream the kernel holds. */
import { check, libc } from './libc.js';

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_SNDBUFFORCE = 32;

const setsockopt = libc.func(
  'int setsockopt(int fd, int level, int option, const void *value, unsigned int size)',
) as (fd: number, level: number, option: number, value: Uint8Array, size: number) => number;

/** Lets `bytes` be on their way to the reader; without CAP_NET_ADMIN at most net.core.wmem_max. */
export function setSendBuffer(fd: number, bytes: number): void {
  const value = new Uint8Array(Uint32Array.of(bytes).buffer);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, value, value.length) === 0) return;
  check('setsockopt SO_SNDBUF', setsockopt(fd, SOL_SOCKET, SO_SNDBUF, value, value.length));
}
