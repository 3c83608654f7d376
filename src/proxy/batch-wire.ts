/**
 * The batch: whole frames back to back, each with its length in front. It is the unit of data
 * everywhere in the proxy: a batch comes from the TAP or from QEMU and goes to the other, to the
 * peer, or into a queue as it is. A batch is never modified by anybody, since several queues may
 * share its memory.
 *
 *     field           size         order          meaning                           limit
 *     length          4            big-endian     bytes of the two that follow      24 to 65,567
 *     virtio_net_hdr  10           little-endian  what was left to the receiver     below
 *     frame           length - 10  -              Ethernet frame without FCS        -
 *
 * A batch from QEMU may have shorter ones: the guest says what it likes, and the TAP drops it.
 * virtio_net_hdr, which the proxy carries and never trusts:
 *
 *     field        offset  size  meaning
 *     flags        0       1     1 NEEDS_CSUM: the checksum is that of the pseudo-header only;
 *                                2 DATA_VALID: it was checked
 *     gso_type     1       1     0 none, 1 TCP over IPv4, 4 TCP over IPv6; 0x80 with ECN
 *     hdr_len      2       2     a hint: bytes of headers
 *     gso_size     4       2     payload of each segment that the frame is to be cut into
 *     csum_start   6       2     from the start of the frame
 *     csum_offset  8       2     from csum_start to the checksum
 *
 * Sources: virtio 1.1 section 5.1.6; Linux include/uapi/linux/virtio_net.h.
 */
import { ProtocolError } from '../lib/index.js';
import { BATCH_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN } from './limits.js';

/** Bytes of the length in front of each frame. */
export const LENGTH_BYTES = 4;

/**
 * Checks a batch that came from the peer and gives its number of frames.
 * Throws `ProtocolError` unless it is whole frames of legal length and not too long altogether.
 */
export function checkBatch(batch: Buffer): number {
  if (batch.length > BATCH_BYTES_MAX) {
    throw new ProtocolError(`A batch of ${batch.length} bytes exceeds ${BATCH_BYTES_MAX}`);
  }
  let frames = 0;
  let at = 0;
  while (at < batch.length) {
    if (batch.length - at < LENGTH_BYTES) throw new ProtocolError('A batch ends inside a length');
    at += LENGTH_BYTES + checkedLength(batch.readUInt32BE(at));
    if (at > batch.length) throw new ProtocolError('A batch ends inside a frame');
    frames++;
  }
  return frames;
}

/** Frames in a batch that is known to be well-formed. */
export function countFrames(batch: Buffer): number {
  let frames = 0;
  for (let at = 0; at < batch.length; at += LENGTH_BYTES + batch.readUInt32BE(at)) frames++;
  return frames;
}

/**
 * Calls `visit` with each frame (virtio_net_hdr included, length not; a slice, not a copy) of a
 * well-formed batch.
 */
export function forEachFrame(batch: Buffer, visit: (frame: Buffer) => void): void {
  let at = 0;
  while (at < batch.length) {
    const start = at + LENGTH_BYTES;
    at = start + batch.readUInt32BE(at);
    visit(batch.subarray(start, at));
  }
}

/** Joins frames of legal length, each behind its virtio_net_hdr, into a new batch. */
export function encodeBatch(frames: readonly Buffer[]): Buffer {
  const parts: Buffer[] = [];
  for (const frame of frames) {
    const length = Buffer.allocUnsafe(LENGTH_BYTES);
    length.writeUInt32BE(frame.length, 0);
    parts.push(length, frame);
  }
  return Buffer.concat(parts);
}

function checkedLength(length: number): number {
  if (length >= FRAME_BYTES_MIN && length <= FRAME_BYTES_MAX) return length;
  const limits = `${FRAME_BYTES_MIN} to ${FRAME_BYTES_MAX}`;
  throw new ProtocolError(`A frame has ${length} bytes, expected ${limits}`);
}
