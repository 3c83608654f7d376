/**
 * The control socket between the agent and native/ram-preload.c inside QEMU. Both ends are on one
 * host and built together: numbers are 64-bit little-endian.
 *
 * First, once, from the library, when QEMU has mapped guest RAM:
 *
 * | field          | offset | meaning                                                   |
 * |----------------|--------|-----------------------------------------------------------|
 * | address        | 0      | where in QEMU's memory                                    |
 * | length         | 8      | bytes                                                     |
 * | userfaultfd    | 16     | fd number inside QEMU, all ones: none                     |
 * | tracking errno | 24     | 0: writes are tracked; ENOSYS when tracking was not asked for |
 * | locking errno  | 32     | 0: locked, or private and needs no lock                   |
 *
 * Then requests of the agent: count (1 to 8192), then per range offset and length in guest RAM,
 * each 8 bytes; and one answer each: errno, 0 for done.
 */
import { assert, type PageRange, ProtocolError } from '../lib/index.js';
import { DROP_RANGES_MAX } from './limits.js';

export const SHIM_REPORT_BYTES = 40;
export const SHIM_ANSWER_BYTES = 8;

export interface ShimReport {
  readonly address: number;
  readonly length: number;
  /** Its number inside QEMU. */
  readonly userfaultfd: number | undefined;
  readonly trackingErrno: number;
  readonly lockingErrno: number;
}

/** Throws ProtocolError when a field is no safe integer. */
export function decodeShimReport(bytes: Buffer): ShimReport {
  return {
    address: readNumber(bytes, 0),
    length: readNumber(bytes, 8),
    userfaultfd: bytes.readInt32LE(16) < 0 ? undefined : readNumber(bytes, 16),
    trackingErrno: readNumber(bytes, 24),
    lockingErrno: readNumber(bytes, 32),
  };
}

/** The errno that answers a drop request. */
export function decodeShimAnswer(bytes: Buffer): number {
  return readNumber(bytes, 0);
}

/** One request to drop the private copies of at most `DROP_RANGES_MAX` ranges. */
export function encodeDropRequest(ranges: readonly PageRange[]): Buffer {
  assert(ranges.length > 0 && ranges.length <= DROP_RANGES_MAX, `${ranges.length} ranges to drop`);
  const bytes = Buffer.alloc(8 + ranges.length * 16);
  writeNumber(bytes, 0, ranges.length);
  ranges.forEach((range, i) => {
    writeNumber(bytes, 8 + i * 16, range.offset);
    writeNumber(bytes, 16 + i * 16, range.length);
  });
  return bytes;
}

function writeNumber(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32LE(value % 0x1_0000_0000, at);
  bytes.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

function readNumber(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32LE(at + 4);
  if (high > 0x1f_ffff) throw new ProtocolError('A number of the preload library exceeds 2^53 - 1');
  return high * 0x1_0000_0000 + bytes.readUInt32LE(at);
}
