/**
 * Which clusters of a disk must still be sent: one bit per 64 KiB. It lives as long as a session;
 * what must survive the agent is in generation/change-map.ts.
 *
 * `take` clears bits before anybody reads the clusters; a guest write that races with the reading
 * sets its bit again when it completes, so nothing is lost, at worst something is sent twice.
 */
import { bitRuns } from '../lib/index.js';
import type { ByteRange } from './block-layer-shell.js';
import { DIRTY_CLUSTER_BYTES } from './limits.js';

export class DirtyBitmap {
  readonly #sizeBytes: number;
  readonly #clusters: number;
  readonly #bits: Uint32Array;
  #dirty = 0;
  /** Word where the next search starts, so that taking a whole disk is linear. */
  #cursor = 0;

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
    this.#clusters = Math.ceil(sizeBytes / DIRTY_CLUSTER_BYTES);
    this.#bits = new Uint32Array(Math.ceil(this.#clusters / 32));
  }

  get dirtyClusters(): number {
    return this.#dirty;
  }

  /** An upper bound: the last cluster counts whole. */
  get dirtyBytes(): number {
    return Math.min(this.#dirty * DIRTY_CLUSTER_BYTES, this.#sizeBytes);
  }

  /** Marks every cluster that the range touches. */
  mark(offset: number, length: number): void {
    if (length <= 0) return;
    const first = Math.floor(offset / DIRTY_CLUSTER_BYTES);
    const last = Math.min(
      Math.floor((offset + length - 1) / DIRTY_CLUSTER_BYTES),
      this.#clusters - 1,
    );
    for (let cluster = first; cluster <= last; cluster++) {
      const mask = 1 << (cluster & 31);
      const word = this.#bits[cluster >>> 5] as number;
      if ((word & mask) !== 0) continue;
      this.#bits[cluster >>> 5] = word | mask;
      this.#dirty += 1;
    }
  }

  isDirty(cluster: number): boolean {
    return ((this.#bits[cluster >>> 5] ?? 0) & (1 << (cluster & 31))) !== 0;
  }

  /** Dirty ranges, ascending, neighbours joined; nothing is cleared. */
  *ranges(): Generator<ByteRange> {
    yield* bitRanges((word) => this.#bits[word] as number, this.#sizeBytes);
  }

  /** Nothing is dirty any more; the next `take` starts at the disk's beginning. */
  clear(): void {
    this.#bits.fill(0);
    this.#dirty = 0;
    this.#cursor = 0;
  }

  /** Clears at most `maxClusters` bits and returns their ranges, neighbours joined. */
  take(maxClusters: number): { offset: number; length: number }[] {
    const ranges: { offset: number; length: number }[] = [];
    let left = Math.min(maxClusters, this.#dirty);
    while (left > 0) {
      const cluster = this.#nextDirty();
      this.#clear(cluster);
      left -= 1;
      const offset = cluster * DIRTY_CLUSTER_BYTES;
      const length = Math.min(DIRTY_CLUSTER_BYTES, this.#sizeBytes - offset);
      const previous = ranges.at(-1);
      if (previous !== undefined && previous.offset + previous.length === offset) {
        previous.length += length;
      } else {
        ranges.push({ offset, length });
      }
    }
    return ranges;
  }

  #clear(cluster: number): void {
    const word = this.#bits[cluster >>> 5] as number;
    this.#bits[cluster >>> 5] = word & ~(1 << (cluster & 31));
    this.#dirty -= 1;
  }

  /** There is a dirty cluster. Searches from the cursor and wraps around once. */
  #nextDirty(): number {
    while (this.#bits[this.#cursor] === 0) this.#cursor = (this.#cursor + 1) % this.#bits.length;
    const word = this.#bits[this.#cursor] as number;
    const lowest = 31 - Math.clz32(word & -word);
    return this.#cursor * 32 + lowest;
  }
}

/** The ranges of a disk whose clusters' bits are set, ascending, neighbours joined. */
export function* bitRanges(
  wordAt: (index: number) => number,
  sizeBytes: number,
): Generator<ByteRange> {
  // Bits of clusters behind the end, as in a damaged file, mean nothing.
  for (const run of bitRuns(wordAt, 0, Math.ceil(sizeBytes / DIRTY_CLUSTER_BYTES))) {
    const offset = run.first * DIRTY_CLUSTER_BYTES;
    const end = Math.min(offset + run.count * DIRTY_CLUSTER_BYTES, sizeBytes);
    yield { offset, length: end - offset };
  }
}
