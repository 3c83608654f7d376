/**
 * Comparing and copying runs of bytes, cheap for short runs as well as for long ones. The functions
 * take five numbers and buffers rather than objects, which would have to be made for every packet.
 */

/** Below this a loop beats the call into native code. */
const SHORT_BYTES = 48;

/** The `length` bytes at `aAt` and at `bAt` are the same. Both must be inside their buffers. */
export function equalBytes(
  a: Buffer,
  aAt: number,
  b: Buffer,
  bAt: number,
  length: number,
): boolean {
  if (length >= SHORT_BYTES) return a.compare(b, bAt, bAt + length, aAt, aAt + length) === 0;
  for (let index = 0; index < length; index++) {
    if (a[aAt + index] !== b[bAt + index]) return false;
  }
  return true;
}

/** Index of the first byte that differs, or `length`. */
export function firstDifference(
  a: Buffer,
  aAt: number,
  b: Buffer,
  bAt: number,
  length: number,
): number {
  let index = 0;
  while (index < length && a[aAt + index] === b[bAt + index]) index++;
  return index;
}

export function copyBytes(
  from: Buffer,
  fromAt: number,
  to: Buffer,
  toAt: number,
  length: number,
): void {
  if (length >= SHORT_BYTES) {
    from.copy(to, toAt, fromAt, fromAt + length);
    return;
  }
  for (let index = 0; index < length; index++) to[toAt + index] = from[fromAt + index] as number;
}
