/** What disk-client-child.ts writes, and from where: the same for both who know the seed. */

export const RAM_BYTES = 4 << 20;
export const DISK_BYTES = 8 << 20;
const WRITES = 60;

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

/** Numbers from 0 to below 1 (mulberry32). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Bytes that are other ones for each seed. */
export function fill(bytes: Buffer, seed: number): void {
  const next = numbers(seed * 7919 + 13);
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE((next() * 2 ** 32) >>> 0, at);
}

/** Large and small, of few and of many pieces; some all or in part of memory that is not RAM. */
export function planWrites(seed: number): PlannedWrite[] {
  const next = numbers(seed);
  const upTo = (limit: number): number => Math.floor(next() * limit);
  return Array.from({ length: WRITES }, (_, index) => {
    const count = index === 0 ? 1000 : 1 + upTo(next() < 0.3 ? 900 : 12);
    const longest = Math.min(300_000, Math.floor((2 << 20) / count));
    const kind = next();
    const pieces: PlannedPiece[] = [];
    for (let each = 0; each < count; each += 1) {
      const length = 1 + upTo(longest);
      const inRam = kind < 0.7 || (kind < 0.9 && next() < 0.9);
      const before = pieces.at(-1);
      const following = before === undefined ? 0 : before.at + before.length;
      const follows = next() < 0.3 && following + length <= RAM_BYTES;
      pieces.push({ inRam, at: follows ? following : upTo(RAM_BYTES - length), length });
    }
    const length = pieces.reduce((sum, each) => sum + each.length, 0);
    return { offset: upTo(DISK_BYTES - length), pieces };
  });
}
