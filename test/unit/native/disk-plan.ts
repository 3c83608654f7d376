import { Prng } from '../../../src/lib/index.js';
import { request } from '../blockrep/support.js';

/** What disk-client-child.ts writes, and from where: the same for both who know the seed. */

export const RAM_BYTES = 4 << 20;
export const DISK_BYTES = 8 << 20;
/** What the page cache has of the disk that is lent. */
export const LENT_BYTES = 6 << 20;
/** From here on it has nothing; in between it may have read ahead. */
const HOLE_AT = 7 << 20;
const WRITES = 60;
const READS = 80;
const BATCHES = 60;
const FORGED = request('write', { offset: 0, length: 1 << 20 });

export interface PlannedPiece {
  /** Guest RAM, or other memory of the client's. */
  readonly inRam: boolean;
  readonly at: number;
  readonly length: number;
}

export interface PlannedWrite {
  readonly offset: number;
  readonly pieces: readonly PlannedPiece[];
}

/** Bytes that are other ones for each seed. */
export function fill(bytes: Buffer, seed: number): void {
  const prng = new Prng(seed * 7919 + 13);
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(prng.nextUint32(), at);
}

/** The same for what a guest fills: it begins with what looks like the header of a large write. */
export function fillRam(bytes: Buffer, seed: number): void {
  fill(bytes, seed);
  FORGED.copy(bytes);
}

/**
 * The forged headers; then large and small, of few and of many pieces; some all or in part of
 * memory that is not RAM.
 */
export function planWrites(seed: number): PlannedWrite[] {
  const prng = new Prng(seed);
  const upTo = (limit: number): number => prng.nextInt(0, limit - 1);
  const forged = [true, false].map((inRam) => {
    return { offset: 0, pieces: [{ inRam, at: 0, length: FORGED.length }] };
  });
  const others = Array.from({ length: WRITES }, (_, index) => {
    const count = index === 0 ? 1000 : 1 + upTo(prng.chance(0.3) ? 900 : 12);
    const longest = Math.min(300_000, Math.floor((2 << 20) / count));
    const kind = prng.nextFloat();
    const pieces: PlannedPiece[] = [];
    for (let each = 0; each < count; each += 1) {
      const length = 1 + upTo(longest);
      const inRam = kind < 0.7 || (kind < 0.9 && prng.chance(0.9));
      const before = pieces.at(-1);
      const following = before === undefined ? 0 : before.at + before.length;
      const follows = prng.chance(0.3) && following + length <= RAM_BYTES;
      pieces.push({ inRam, at: follows ? following : upTo(RAM_BYTES - length), length });
    }
    const length = pieces.reduce((sum, each) => sum + each.length, 0);
    return { offset: upTo(DISK_BYTES - length), pieces };
  });
  return [...forged, ...others];
}

export interface PlannedRead {
  readonly offset: number;
  readonly length: number;
}

/** Small and large, around the length from which the data are not sent. */
export function planReads(seed: number): PlannedRead[] {
  const prng = new Prng(seed);
  return Array.from({ length: READS }, () => {
    const length = prng.nextInt(1, prng.chance(0.5) ? 200_000 : 2 << 20);
    return { offset: prng.nextInt(0, DISK_BYTES - length), length };
  });
}

/** Reads that are under way at the same time; `looks`: the client looks for a reply before. */
export interface LentBatch {
  readonly looks: boolean;
  readonly reads: readonly PlannedRead[];
}

/** One large read after the other. */
export function planBurst(count: number): LentBatch[] {
  return Array.from({ length: count }, (_, index) => {
    return { looks: false, reads: [{ offset: (index % 5) << 20, length: 1 << 20 }] };
  });
}

/** The first one is large, so that the file is lent by its answer. A few are of the hole. */
export function planLent(seed: number): LentBatch[] {
  const prng = new Prng(seed);
  const read = (): PlannedRead => {
    const length = prng.nextInt(1, prng.chance(0.5) ? 8192 : 400_000);
    const [first, end] = prng.chance(0.1) ? [HOLE_AT, DISK_BYTES] : [0, LENT_BYTES];
    return { offset: prng.nextInt(first, end - length), length };
  };
  const others = Array.from({ length: BATCHES }, () => {
    const reads = Array.from({ length: prng.nextInt(1, 4) }, read);
    return { looks: prng.chance(0.3), reads };
  });
  return [{ looks: false, reads: [{ offset: 0, length: 1 << 20 }] }, ...others];
}
