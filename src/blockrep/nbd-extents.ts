/**
 * Block status of `base:allocation`: a range as data and holes, one after the other.
 *
 *   descriptors   context u32, then per extent: length u32, state u32 (0 data; 3 hole that reads as
 *                 zeroes)
 *
 * They start at the request's offset and never go beyond its end; a client asks again for what is
 * missing. Source: NBD doc/proto.md, "Metadata querying" and "Block status chunk".
 */
import { assert } from '../lib/index.js';
import type { ByteRange } from './block-layer-shell.js';
import { BASE_ALLOCATION_ID } from './nbd-wire.js';

const STATE_DATA = 0;
const STATE_HOLE_AND_ZERO = 3;

/**
 * `data`: where data is in the range, ascending, cut to it; `countMax` of them mean that there may
 * be more, and then the answer ends with the last one.
 */
export function encodeExtents(
  range: ByteRange,
  data: readonly ByteRange[],
  options: { readonly countMax: number; readonly one: boolean },
): Buffer {
  const extents: { length: number; state: number }[] = [];
  let at = range.offset;
  for (const { offset, length } of data) {
    if (offset > at) extents.push({ length: offset - at, state: STATE_HOLE_AND_ZERO });
    extents.push({ length, state: STATE_DATA });
    at = offset + length;
  }
  const end = range.offset + range.length;
  if (at < end && data.length < options.countMax) {
    extents.push({ length: end - at, state: STATE_HOLE_AND_ZERO });
  }
  const told = options.one ? extents.slice(0, 1) : extents;
  assert(told.length > 0, 'A block status covers something');
  const bytes = Buffer.allocUnsafe(4 + 8 * told.length);
  bytes.writeUInt32BE(BASE_ALLOCATION_ID, 0);
  for (const [index, { length, state }] of told.entries()) {
    bytes.writeUInt32BE(length, 4 + 8 * index);
    bytes.writeUInt32BE(state, 8 + 8 * index);
  }
  return bytes;
}
