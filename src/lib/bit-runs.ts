/**
 * Runs of set bits in words of 32, least significant bit first: what every bitmap here is read by.
 * Words of one kind cost one comparison each, whatever the runs are.
 */

export interface BitRun {
  readonly first: number;
  readonly count: number;
}

type WordAt = (index: number) => number;

/** Runs of set bits in [first, end), ascending. Bits from `end` on mean nothing. */
export function* bitRuns(wordAt: WordAt, first: number, end: number): Generator<BitRun> {
  for (let at = first; ; ) {
    const start = nextSetBit(wordAt, at, end);
    if (start >= end) return;
    at = nextBit(wordAt, start, end, -1);
    yield { first: start, count: at - start };
  }
}

/** The first set bit in [from, end); `end` if there is none. */
export function nextSetBit(wordAt: WordAt, from: number, end: number): number {
  return nextBit(wordAt, from, end, 0);
}

/** `flip` 0 looks for a set bit, -1 for a clear one. */
function nextBit(wordAt: WordAt, from: number, end: number, flip: number): number {
  if (from >= end) return end;
  const last = (end - 1) >>> 5;
  let word = from >>> 5;
  let bits = (wordAt(word) ^ flip) & (-1 << (from & 31));
  while (bits === 0) {
    word += 1;
    if (word > last) return end;
    bits = wordAt(word) ^ flip;
  }
  return Math.min(end, word * 32 + 31 - Math.clz32(bits & -bits));
}
