/** What the kernel knows of a TCP connection: `TCP_INFO` of tcp(7), `struct tcp_info`. */
import { check, libc } from './libc.js';

const IPPROTO_TCP = 6;
const TCP_INFO = 11;
/** As far as `tcpi_rtt`, microseconds: the kernel fills in what there is room for. */
const RTT_AT = 68;
const INFO_BYTES = RTT_AT + 4;

const getsockopt = libc.func(
  'int getsockopt(int fd, int level, int option, _Out_ void *value, _Inout_ unsigned int *size)',
) as (fd: number, level: number, option: number, value: Uint8Array, size: [number]) => number;

/** Microseconds; 0 before anything was acknowledged. Throws `SystemCallError`: no TCP connection. */
export function smoothedRoundTripUs(fd: number): number {
  const info = Buffer.alloc(INFO_BYTES);
  check('getsockopt TCP_INFO', getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, [info.length]));
  return info.readUInt32LE(RTT_AT);
}
