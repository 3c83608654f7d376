import { crc32c as native } from '@node-rs/crc32';

/** CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `bytes`, continuing from `initial`. Unsigned. */
export function crc32c(bytes: Uint8Array, initial = 0): number {
  return native(bytes as Buffer, initial) >>> 0;
}
