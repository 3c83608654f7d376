/**
 * A writable layer of blocks over an image that it does not change, until `mergeRange` moves blocks
 * down. The caller holds the locks: nothing else touches the blocks of a call while it runs.
 */
import type { ByteRange } from './block-layer-shell.js';
import { OVERLAY_BLOCK_BYTES, type SecondaryBounds } from './limits.js';
import { OverlayMap } from './overlay-map.js';
import { OverlayStore } from './overlay-store-shell.js';
import type { StorageImage } from './storage-shell.js';

export class Overlay {
  readonly #image: StorageImage;
  readonly #map = new OverlayMap();
  readonly #store: OverlayStore;

  constructor(image: StorageImage, bounds: SecondaryBounds, spillDirectory: string) {
    this.#image = image;
    this.#store = new OverlayStore(bounds, spillDirectory);
  }

  get isEmpty(): boolean {
    return this.#map.isEmpty;
  }

  /** Bytes that the overlay holds: blocks with storage, and the map itself. */
  get bytes(): number {
    return this.#map.storedBytes + this.#map.mapBytes;
  }

  get spilledBytes(): number {
    return this.#store.spilledBytes;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const segments = this.#map.segments(offset, length);
    const [only] = segments;
    if (segments.length === 1 && only?.kind === 'image') return this.#image.read(offset, length);
    const result = Buffer.allocUnsafeSlow(length);
    for (const segment of segments) {
      const from = segment.offset - offset;
      const target = result.subarray(from, from + segment.length);
      if (segment.kind === 'zeroes') target.fill(0);
      else if (segment.kind === 'overlay') await this.#store.read(segment.position, target);
      else (await this.#image.read(segment.offset, segment.length)).copy(target);
    }
    return result;
  }

  async write(offset: number, data: Buffer): Promise<void> {
    const { head, body, tail } = cut(offset, data.length, this.#image.sizeBytes);
    if (head > 0) await this.#writePart(offset, data.subarray(0, head));
    if (body > 0) await this.#writeWhole(offset + head, data.subarray(head, head + body));
    if (tail > 0) await this.#writePart(offset + head + body, data.subarray(head + body));
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    const { head, body, tail } = cut(offset, length, this.#image.sizeBytes);
    if (head > 0) await this.#writePart(offset, Buffer.alloc(head));
    if (body > 0) this.#map.setZeroes((offset + head) / OVERLAY_BLOCK_BYTES, blocksOf(body));
    if (tail > 0) await this.#writePart(offset + head + body, Buffer.alloc(tail));
  }

  /**
   * Writes the overlay's blocks that the range touches into the image and forgets them. Reads what
   * lies together at once: keep the range small.
   */
  async mergeRange(offset: number, length: number): Promise<void> {
    const blocks = touched(offset, length);
    const start = blocks.first * OVERLAY_BLOCK_BYTES;
    const end = Math.min(start + blocks.count * OVERLAY_BLOCK_BYTES, this.#image.sizeBytes);
    for (const segment of this.#map.segments(start, end - start)) {
      if (segment.kind === 'overlay') {
        const data = Buffer.allocUnsafeSlow(segment.length);
        await this.#store.read(segment.position, data);
        await this.#image.write(segment.offset, data, false);
      } else if (segment.kind === 'zeroes') {
        const options = { mayTrim: true, fua: false };
        await this.#image.writeZeroes(segment.offset, segment.length, options);
      }
    }
    this.#map.remove(blocks.first, blocks.count);
  }

  /** Merges the blocks that the range covers only in part, before it is written to the image. */
  async mergeEdges(offset: number, length: number): Promise<void> {
    const { head, tail } = cut(offset, length, this.#image.sizeBytes);
    if (head > 0) await this.mergeRange(offset, head);
    if (tail > 0) await this.mergeRange(offset + length - tail, tail);
  }

  /** The image is right for all blocks that the range touches. */
  forget(offset: number, length: number): void {
    const blocks = touched(offset, length);
    this.#map.remove(blocks.first, blocks.count);
  }

  /** Ranges, small enough to lock one after the other, that together cover all of the overlay. */
  mergeSteps(): { offset: number; length: number }[] {
    const bytes = OverlayMap.groupBlocks * OVERLAY_BLOCK_BYTES;
    return this.#map.groupStarts().map((block) => {
      const offset = block * OVERLAY_BLOCK_BYTES;
      return { offset, length: Math.min(bytes, this.#image.sizeBytes - offset) };
    });
  }

  /** What differs from the image, neighbours joined; a part of a group of blocks each. */
  ranges(): ByteRange[] {
    return this.mergeSteps().flatMap(({ offset, length }) =>
      this.#map
        .segments(offset, length)
        .filter(({ kind }) => kind !== 'image')
        .map((segment) => ({ offset: segment.offset, length: segment.length })),
    );
  }

  async discard(): Promise<void> {
    this.#map.clear();
    await this.#store.clear();
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  /** Whole blocks. If the storage fails they fall back to the image: never unwritten storage. */
  async #writeWhole(offset: number, data: Buffer): Promise<void> {
    const first = offset / OVERLAY_BLOCK_BYTES;
    const count = blocksOf(data.length);
    try {
      let run = { from: 0, to: 0, position: -1 };
      for (let i = 0; i < count; i++) {
        const position = this.#map.assign(first + i);
        const from = i * OVERLAY_BLOCK_BYTES;
        const to = Math.min(from + OVERLAY_BLOCK_BYTES, data.length);
        if (run.position >= 0 && run.position + (run.to - run.from) === position) {
          run.to = to;
          continue;
        }
        if (run.position >= 0) {
          await this.#store.write(run.position, data.subarray(run.from, run.to));
        }
        run = { from, to, position };
      }
      await this.#store.write(run.position, data.subarray(run.from, run.to));
    } catch (error) {
      this.#map.remove(first, count);
      throw error;
    }
  }

  /** A part of one block: the rest of it comes from where it was. */
  async #writePart(offset: number, data: Buffer): Promise<void> {
    const block = Math.floor(offset / OVERLAY_BLOCK_BYTES);
    const start = block * OVERLAY_BLOCK_BYTES;
    const found = this.#map.find(block);
    if (typeof found === 'number') {
      await this.#store.write(found + (offset - start), data);
      return;
    }
    const length = Math.min(OVERLAY_BLOCK_BYTES, this.#image.sizeBytes - start);
    const whole = found === 'zeroes' ? Buffer.alloc(length) : await this.#image.read(start, length);
    data.copy(whole, offset - start);
    await this.#writeWhole(start, whole);
  }
}

function touched(offset: number, length: number): { first: number; count: number } {
  const first = Math.floor(offset / OVERLAY_BLOCK_BYTES);
  const last = Math.floor((offset + length - 1) / OVERLAY_BLOCK_BYTES);
  return { first, count: last - first + 1 };
}

function blocksOf(length: number): number {
  return Math.ceil(length / OVERLAY_BLOCK_BYTES);
}

/**
 * Cuts a range into a first part up to a block boundary, whole blocks, and a last part. The disk's
 * last block may be short; a range that reaches the disk's end covers it whole. A range inside one
 * block is all head.
 */
function cut(
  offset: number,
  length: number,
  sizeBytes: number,
): { head: number; body: number; tail: number } {
  const before = (OVERLAY_BLOCK_BYTES - (offset % OVERLAY_BLOCK_BYTES)) % OVERLAY_BLOCK_BYTES;
  const head = Math.min(before, length);
  const rest = length - head;
  const tail = offset + length === sizeBytes ? 0 : rest % OVERLAY_BLOCK_BYTES;
  return { head, body: rest - tail, tail };
}
