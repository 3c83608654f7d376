/**
 * Cuts dirty pages into RAM frames.
 *
 * In: page ranges of one epoch and a way to copy guest RAM. Out: frames of at most
 * `RAM_FRAME_DATA_BYTES`, whose bytes are copies that no longer change under the reader's hands,
 * with zero pages flagged instead of sent. Copying (`cut`) and encoding (`encode`) are apart
 * because only the copying has to happen while the guest is paused.
 */
import { crc32c, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { RAM_FRAME_DATA_BYTES, RAM_FRAME_PAGES } from './limits.js';
import { type EncodedMessage, encodeRamPages, RamDigest } from './wire.js';

interface Run {
  offset: number;
  length: number;
  readonly zero: boolean;
}

/** Pages copied out of the guest, not yet encoded. */
export interface RamFrame {
  readonly runs: readonly Run[];
  readonly data: Buffer;
  readonly pages: number;
}

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE_BYTES);

/** Frames and totals of one epoch's RAM stream. */
export class RamFramer {
  readonly epoch: number;
  readonly #digest = new RamDigest();
  #frames = 0;
  #pages = 0;

  constructor(epoch: number) {
    this.epoch = epoch;
  }

  get totals(): { frames: number; pages: number; digest: number } {
    return { frames: this.#frames, pages: this.#pages, digest: this.#digest.value };
  }

  /** Copies `ranges` out of guest RAM, a frame at a time. */
  *cut(
    ranges: readonly PageRange[],
    copyOut: (offset: number, target: Buffer) => void,
  ): Generator<RamFrame> {
    let builder = new FrameBuilder();
    for (const range of ranges) {
      let offset = range.offset;
      const end = range.offset + range.length;
      while (offset < end) {
        const length = Math.min(end - offset, builder.roomBytes);
        copyOut(offset, builder.target(length));
        builder.added(offset, length);
        offset += length;
        if (builder.full) {
          yield builder.frame();
          builder = new FrameBuilder();
        }
      }
    }
    if (builder.pages > 0) yield builder.frame();
  }

  /**
   * Encodes one frame and counts it; frames must be sent in the order in which they are encoded.
   */
  encode(frame: RamFrame): EncodedMessage {
    const message = encodeRamPages(this.epoch, frame.runs, frame.data);
    const crc = message.parts.reduce((sum, part) => crc32c(part, sum), 0);
    this.#digest.add(crc);
    this.#frames += 1;
    this.#pages += frame.pages;
    return { ...message, crc };
  }
}

class FrameBuilder {
  readonly #runs: Run[] = [];
  readonly #data = Buffer.allocUnsafe(RAM_FRAME_DATA_BYTES);
  #length = 0;
  pages = 0;

  get roomBytes(): number {
    const pagesLeft = RAM_FRAME_PAGES - this.pages;
    return Math.min(RAM_FRAME_DATA_BYTES - this.#length, pagesLeft * PAGE_SIZE_BYTES);
  }

  get full(): boolean {
    return this.roomBytes === 0;
  }

  target(length: number): Buffer {
    return this.#data.subarray(this.#length, this.#length + length);
  }

  /** Books the bytes that were copied to `target`; zero pages are closed up. */
  added(offset: number, length: number): void {
    const start = this.#length;
    for (let at = 0; at < length; at += PAGE_SIZE_BYTES) {
      const from = start + at;
      const zero = this.#isZero(from);
      if (!zero) {
        if (from !== this.#length) {
          this.#data.copyWithin(this.#length, from, from + PAGE_SIZE_BYTES);
        }
        this.#length += PAGE_SIZE_BYTES;
      }
      this.#append(offset + at, zero);
    }
    this.pages += length / PAGE_SIZE_BYTES;
  }

  frame(): RamFrame {
    return { runs: this.#runs, data: this.#data.subarray(0, this.#length), pages: this.pages };
  }

  #append(offset: number, zero: boolean): void {
    const last = this.#runs.at(-1);
    if (last !== undefined && last.zero === zero && last.offset + last.length === offset) {
      last.length += PAGE_SIZE_BYTES;
    } else {
      this.#runs.push({ offset, length: PAGE_SIZE_BYTES, zero });
    }
  }

  #isZero(from: number): boolean {
    if (this.#data.readInt32LE(from) !== 0) return false;
    return this.#data.compare(ZERO_PAGE, 0, PAGE_SIZE_BYTES, from, from + PAGE_SIZE_BYTES) === 0;
  }
}
