/**
 * The batch: whole Ethernet frames back to back, each with its length in front. It is the format of
 * QEMU's stream netdev, and therefore the unit of data everywhere in the proxy: a batch goes to
 * QEMU, to the peer, or into a queue as it is.
 *
 *     field    size     order        meaning                              limit
 *     length   4        big-endian   bytes of the frame that follows      14 to 65,550
 *     frame    length   -            Ethernet frame without FCS           -
 *
 * In: chunks of QEMU's stream, cut anywhere. Out: batches, sliced from the chunks without a copy;
 * only a frame that spans chunks is put together in a buffer of its own. What is unfinished when the
 * stream ends is no frame and is forgotten with the decoder. A batch is never modified
 * by anybody, since several queues may share its memory.
 *
 * Source: QEMU 7.2 net/stream.c (`net_stream_receive`), net/net.c (`net_fill_rstate`).
 */
import { ProtocolError } from '../lib/index.js';
import { BATCH_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN } from './limits.js';

/** Bytes of the length in front of each frame. */
export const LENGTH_BYTES = 4;

const NO_BYTES = Buffer.alloc(0);

/** Cuts QEMU's byte stream into batches. After it threw, it must not be used again. */
export class BatchDecoder {
  /** Bytes of an unfinished length, or the whole room of an unfinished frame with its length. */
  #partial = NO_BYTES;
  #partialFilled = 0;

  /**
   * The batches that `chunk` completes, in order. They share memory with `chunk`, which must not be
   * modified afterwards. Throws `ProtocolError` for a length that no frame can have.
   */
  write(chunk: Buffer): Buffer[] {
    const batches: Buffer[] = [];
    let at = 0;
    if (this.#partialFilled > 0) {
      at = this.#completePartial(chunk);
      if (this.#partialFilled > 0) return batches;
      batches.push(this.#partial);
      this.#partial = NO_BYTES;
    }
    const start = at;
    while (chunk.length - at >= LENGTH_BYTES) {
      const end = at + LENGTH_BYTES + checkedLength(chunk.readUInt32BE(at));
      if (end > chunk.length) break;
      at = end;
    }
    if (at > start) batches.push(chunk.subarray(start, at));
    if (at < chunk.length) this.#keep(chunk, at);
    return batches;
  }

  /** Fills the unfinished frame and gives how many bytes of `chunk` that took. */
  #completePartial(chunk: Buffer): number {
    let at = 0;
    if (this.#partialFilled < LENGTH_BYTES) {
      at = this.#fill(chunk, 0, LENGTH_BYTES);
      if (this.#partialFilled < LENGTH_BYTES) return at;
      this.#growToFrame();
    }
    at = this.#fill(chunk, at, this.#partial.length);
    if (this.#partialFilled === this.#partial.length) this.#partialFilled = 0;
    return at;
  }

  #keep(chunk: Buffer, at: number): void {
    this.#partial = Buffer.allocUnsafe(LENGTH_BYTES);
    const next = this.#fill(chunk, at, LENGTH_BYTES);
    if (this.#partialFilled < LENGTH_BYTES) return;
    this.#growToFrame();
    this.#fill(chunk, next, this.#partial.length);
  }

  #growToFrame(): void {
    const length = checkedLength(this.#partial.readUInt32BE(0));
    const grown = Buffer.allocUnsafe(LENGTH_BYTES + length);
    grown.writeUInt32BE(length, 0);
    this.#partial = grown;
  }

  #fill(chunk: Buffer, at: number, upTo: number): number {
    const end = Math.min(chunk.length, at + upTo - this.#partialFilled);
    chunk.copy(this.#partial, this.#partialFilled, at, end);
    this.#partialFilled += end - at;
    return end;
  }
}

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

/** Calls `visit` with each frame (without its length; a slice, not a copy) of a well-formed batch. */
export function forEachFrame(batch: Buffer, visit: (frame: Buffer) => void): void {
  let at = 0;
  while (at < batch.length) {
    const start = at + LENGTH_BYTES;
    at = start + batch.readUInt32BE(at);
    visit(batch.subarray(start, at));
  }
}

/** Joins frames of legal length into a new batch. */
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
  if (length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) {
    throw new ProtocolError(
      `A frame of ${length} bytes is outside ${FRAME_BYTES_MIN} to ${FRAME_BYTES_MAX}`,
    );
  }
  return length;
}
