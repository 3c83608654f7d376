/**
 * What changed in a page since another version of it, in words of 32 bits.
 *
 * A delta's tokens follow each other until its length is used up: skip u16 (words as they were),
 * count u16 (words that changed, at least 1), big-endian, then those words as they are in memory.
 * Words behind the last token are as they were. Two changed parts with one equal word in between
 * are one token: a token costs as much as a word.
 */
import { PAGE_SIZE_BYTES, ProtocolError } from '../../lib/index.js';
import { DELTA_BYTES_MAX } from './limits.js';

const WORDS = PAGE_SIZE_BYTES / 4;
const TOKEN_BYTES = 4;

/** A page in an array of words. */
export interface PageWords {
  readonly words: Int32Array;
  /** Index of the page's first word. */
  readonly start: number;
}

/**
 * Writes the tokens that lead from `base` to `now` to `target`, which has room for
 * `DELTA_BYTES_MAX`, and returns their length: 0 if the pages are equal, undefined if they differ
 * in too much. `bytes` is the same page as `now`.
 */
export function encodeDelta(
  now: PageWords,
  bytes: Buffer,
  base: PageWords,
  target: Buffer,
): number | undefined {
  const differs = (word: number): boolean =>
    now.words[now.start + word] !== base.words[base.start + word];
  let length = 0;
  for (let at = 0; ; ) {
    let start = at;
    while (start < WORDS && !differs(start)) start += 1;
    if (start === WORDS) return length;
    let end = start + 1;
    while (end < WORDS && (differs(end) || (end + 1 < WORDS && differs(end + 1)))) end += 1;
    const changedBytes = (end - start) * 4;
    if (length + TOKEN_BYTES + changedBytes > DELTA_BYTES_MAX) return undefined;
    target.writeUInt16BE(start - at, length);
    target.writeUInt16BE(end - start, length + 2);
    bytes.copy(target, length + TOKEN_BYTES, start * 4, end * 4);
    length += TOKEN_BYTES + changedBytes;
    at = end;
  }
}

/** Turns `page`, which has the base, into the newer version. Throws `ProtocolError`. */
export function applyDelta(tokens: Buffer, page: Buffer): void {
  let word = 0;
  for (let position = 0; position < tokens.length; ) {
    if (tokens.length - position < TOKEN_BYTES) throw new ProtocolError('A delta is cut');
    const start = word + tokens.readUInt16BE(position);
    const count = tokens.readUInt16BE(position + 2);
    position += TOKEN_BYTES;
    if (count === 0 || start + count > WORDS || count * 4 > tokens.length - position) {
      throw new ProtocolError(`A delta's token of ${count} words at word ${start} does not fit`);
    }
    tokens.copy(page, start * 4, position, position + count * 4);
    position += count * 4;
    word = start + count;
  }
}
