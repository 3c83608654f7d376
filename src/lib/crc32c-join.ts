/**
 * CRC-32C of bytes that were put together or taken apart, from the parts' own: nothing is read
 * again.
 *
 * A CRC is linear over GF(2): n zero bytes behind it change it by a fixed matrix, so that
 * crc(ab) = zeroes(crc(a), |b|) ^ crc(b). The matrices for 2^n bytes are made once; a length takes
 * one product for each of its bits (as zlib's crc32_combine does).
 */
import { assert } from './assert.js';

/** The polynomial, bits reversed (RFC 3720). */
const POLYNOMIAL = 0x82f63b78;
const LENGTH_BITS = 32;

/** Column i: what bit i of a CRC becomes. */
type Matrix = Uint32Array<ArrayBuffer>;

/** By n: what 2^n zero bytes do to a CRC. */
const ZEROES: readonly Matrix[] = makeZeroes();

/** The CRC-32C of `a` and then `b`, from theirs; `bBytes` is the length of `b`. Unsigned. */
export function joinCrc32c(a: number, b: number, bBytes: number): number {
  return (behindZeroes(a, bBytes) ^ b) >>> 0;
}

/** The CRC-32C of what follows `a`, from that of `a` and that of the whole. Unsigned. */
export function restCrc32c(whole: number, a: number, restBytes: number): number {
  return joinCrc32c(a, whole, restBytes);
}

function behindZeroes(crc: number, bytes: number): number {
  assert(Number.isInteger(bytes) && bytes >= 0 && bytes < 2 ** LENGTH_BITS, `${bytes} bytes`);
  let value = crc;
  for (let bit = 0, left = bytes; left > 0; bit += 1, left = Math.floor(left / 2)) {
    if (left % 2 === 1) value = times(ZEROES[bit] as Matrix, value);
  }
  return value;
}

function times(matrix: Matrix, vector: number): number {
  let sum = 0;
  for (let bit = 0, left = vector; left !== 0; bit += 1, left >>>= 1) {
    if ((left & 1) === 1) sum ^= matrix[bit] as number;
  }
  return sum >>> 0;
}

function square(matrix: Matrix): Matrix {
  return matrix.map((column) => times(matrix, column));
}

function makeZeroes(): Matrix[] {
  // One zero bit: everything moves down by one, and what falls out adds the polynomial.
  let matrix = Uint32Array.from({ length: 32 }, (_, bit) =>
    bit === 0 ? POLYNOMIAL : 2 ** (bit - 1),
  );
  for (let bits = 1; bits < 8; bits *= 2) matrix = square(matrix);
  const matrices: Matrix[] = [];
  for (let bit = 0; bit < LENGTH_BITS; bit += 1, matrix = square(matrix)) matrices.push(matrix);
  return matrices;
}
