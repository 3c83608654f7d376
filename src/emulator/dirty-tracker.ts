/**
 * Which pages of guest RAM were written since the last question. Three answers, see DESIGN in
 * docs/ARCHITECTURE.md; here the interface and the reference, which only reads.
 */
import { appendRange, assert, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { COMPARE_CHUNK_BYTES } from './limits.js';

export interface DirtyTracker {
  /**
   * Whether a scan may run while the guest does. If not, a write between looking and resetting (or
   * between comparing and the caller's copying) would be lost.
   */
  readonly worksLive: boolean;
  takeWritten(): PageRange[];
  close(): void;
}

/** What the compare tracker needs of guest RAM. */
export interface ReadableRam {
  readonly sizeBytes: number;
  copyOut(offset: number, target: Buffer): void;
  dataRanges(): PageRange[];
}

/**
 * Keeps a copy of guest RAM and compares. Always right, needs no kernel support, costs a read of all
 * RAM per scan and as much memory as the guest has touched. Also finds what the agent itself wrote.
 */
export class CompareTracker implements DirtyTracker {
  readonly worksLive = false;
  readonly #ram: ReadableRam;
  /** By chunk number; a missing chunk has been all zeroes so far. */
  readonly #reference = new Map<number, Buffer>();
  readonly #current = Buffer.alloc(COMPARE_CHUNK_BYTES);

  constructor(ram: ReadableRam) {
    this.#ram = ram;
    assert(ram.sizeBytes % COMPARE_CHUNK_BYTES === 0, `Guest RAM of ${ram.sizeBytes} bytes`);
  }

  takeWritten(): PageRange[] {
    const ranges: PageRange[] = [];
    for (const chunk of this.#chunksToCompare()) this.#compareChunk(chunk, ranges);
    return ranges;
  }

  close(): void {
    this.#reference.clear();
  }

  /** Those with data now, and those that had some: a hole may have been punched since. */
  #chunksToCompare(): number[] {
    const chunks = new Set(this.#reference.keys());
    for (const range of this.#ram.dataRanges()) {
      const last = Math.floor((range.offset + range.length - 1) / COMPARE_CHUNK_BYTES);
      for (let chunk = Math.floor(range.offset / COMPARE_CHUNK_BYTES); chunk <= last; chunk++) {
        chunks.add(chunk);
      }
    }
    return [...chunks].sort((a, b) => a - b);
  }

  #compareChunk(chunk: number, ranges: PageRange[]): void {
    const start = chunk * COMPARE_CHUNK_BYTES;
    this.#ram.copyOut(start, this.#current);
    let reference = this.#reference.get(chunk);
    if (reference === undefined) {
      reference = Buffer.alloc(COMPARE_CHUNK_BYTES);
      this.#reference.set(chunk, reference);
    }
    if (reference.equals(this.#current)) return;
    for (let at = 0; at < COMPARE_CHUNK_BYTES; at += PAGE_SIZE_BYTES) {
      if (
        this.#current.compare(reference, at, at + PAGE_SIZE_BYTES, at, at + PAGE_SIZE_BYTES) !== 0
      ) {
        appendRange(ranges, { offset: start + at, length: PAGE_SIZE_BYTES });
      }
    }
    this.#current.copy(reference);
  }
}
