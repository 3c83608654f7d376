import koffi from 'koffi';
import { check, libc } from './libc.js';

const CLOCK_BOOTTIME = 7;

const clockGettime = libc.func('int clock_gettime(int clock, uintptr_t time)') as (
  clock: number,
  address: number,
) => number;

/** `struct timespec`: seconds and nanoseconds, 64 bits each. */
const timespec = Buffer.allocUnsafeSlow(16);
const timespecAddress = Number(koffi.address(timespec));

/** CLOCK_MONOTONIC in whole microseconds: the only clock of the shells. */
export function monotonicUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

/**
 * CLOCK_BOOTTIME in whole microseconds, for leases: other than CLOCK_MONOTONIC it goes on while the
 * host is suspended, and a lease must not outlast that. Not comparable with `monotonicUs`.
 */
export function bootTimeUs(): number {
  check('clock_gettime', clockGettime(CLOCK_BOOTTIME, timespecAddress));
  const seconds = timespec.readUInt32LE(0) + timespec.readUInt32LE(4) * 0x1_0000_0000;
  return seconds * 1_000_000 + Math.floor(timespec.readUInt32LE(8) / 1000);
}
