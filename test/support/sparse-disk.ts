/** A disk in memory that knows its holes, may be slow, and counts what is done to it. */
import { setImmediate as turn } from 'node:timers/promises';
import type { BlockLayer, ByteRange } from '../../src/blockrep/index.js';
import { DIRTY_CLUSTER_BYTES as CLUSTER } from '../../src/blockrep/limits.js';

export class SparseDisk implements BlockLayer {
  readonly sizeBytes: number;
  readonly readOnly = false;
  readonly bytes: Buffer;
  /** Clusters with space. */
  readonly #data = new Set<number>();
  /** Clusters that were read or written since the last `forget`. */
  readonly touched = new Set<number>();
  readonly reads = new Set<number>();
  /** Turns of the event loop that an access takes. */
  delay: () => number = () => 0;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.bytes = Buffer.alloc(sizeBytes);
  }

  async read(offset: number, length: number): Promise<Buffer> {
    for (const cluster of clustersIn(offset, length)) this.reads.add(cluster);
    await this.#wait();
    return Buffer.from(this.bytes.subarray(offset, offset + length));
  }

  async write(offset: number, data: Buffer): Promise<void> {
    await this.#wait();
    this.fill(offset, data);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#wait();
    for (const cluster of clustersIn(offset, length)) {
      this.touched.add(cluster);
      const start = cluster * CLUSTER;
      const end = Math.min(start + CLUSTER, this.sizeBytes);
      if (offset <= start && end <= offset + length) this.#data.delete(cluster);
    }
    this.bytes.fill(0, offset, offset + length);
  }

  trim(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length);
  }

  async flush(): Promise<void> {}

  async close(): Promise<void> {}

  dataRanges(): ByteRange[] {
    return [...this.#data]
      .sort((a, b) => a - b)
      .map((cluster) => {
        const offset = cluster * CLUSTER;
        return { offset, length: Math.min(CLUSTER, this.sizeBytes - offset) };
      });
  }

  /** Now, and not counted as slow. */
  fill(offset: number, data: Buffer): void {
    for (const cluster of clustersIn(offset, data.length)) {
      this.#data.add(cluster);
      this.touched.add(cluster);
    }
    data.copy(this.bytes, offset);
  }

  forget(): void {
    this.touched.clear();
    this.reads.clear();
  }

  async #wait(): Promise<void> {
    for (let left = this.delay(); left > 0; left--) await turn();
  }
}

export function clustersIn(offset: number, length: number): number[] {
  const found: number[] = [];
  for (let c = Math.floor(offset / CLUSTER); c * CLUSTER < offset + length; c++) found.push(c);
  return found;
}

/** Clusters in which two disks differ. */
export function differingClusters(a: Buffer, b: Buffer): number[] {
  return clustersIn(0, a.length).filter((cluster) => {
    const [start, end] = [cluster * CLUSTER, (cluster + 1) * CLUSTER];
    return !a.subarray(start, end).equals(b.subarray(start, end));
  });
}
