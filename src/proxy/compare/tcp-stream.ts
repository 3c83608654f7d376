/**
 * The SVM's side of one TCP stream: pieces in order of their sequence numbers, none overlapping
 * another, that the PVM has not said yet (or says again, when history has forgotten them).
 *
 * The stream is compared, not its segmentation: pieces are cut where they overlap or where the
 * PVM's segments end. Positions are in the SVM's sequence space.
 */
import { seqAdd, seqBefore, seqDistance, seqMin } from '../../lib/index.js';
import { equalBytes } from './bytes.js';
import { type Frame, type FrameList, streamOffset, type TcpState } from './flow.js';
import type { Difference } from './mismatch.js';

const BOTH = 'both are of the secondary';

/** The piece that has the byte at `seq`. */
export function findSegment(tcp: TcpState, seq: number): Frame | undefined {
  for (let segment = tcp.segments; segment; segment = segment.next) {
    const distance = seqDistance(seq, segment.seq);
    if (distance < 0) return undefined;
    if (distance < segment.payloadBytes) return segment;
  }
  return undefined;
}

/** Adds to and takes from the pieces of one stream at a time. */
export class SegmentStore {
  readonly #secondary: FrameList;
  readonly #difference: Difference;
  #frame: Frame | undefined;
  /** The frame is one of the pieces now, or several of them. */
  used = false;

  constructor(secondary: FrameList, difference: Difference) {
    this.#secondary = secondary;
    this.#difference = difference;
  }

  /** `add` is about this frame from now on; it is in the secondary's list and in no flow's. */
  begin(frame: Frame): void {
    this.#frame = frame;
    this.used = false;
  }

  /**
   * Adds the frame's bytes `at` to `end`, which are the stream's from `from` on, except those that
   * a piece has. Gives false if such a piece has other bytes.
   */
  add(tcp: TcpState, from: number, at: number, end: number): boolean {
    const bytes = (this.#frame as Frame).batch;
    const endSeq = seqAdd(from, end - at);
    let seq = from;
    let before = this.#lastBefore(tcp, seq);
    while (seqBefore(seq, endSeq)) {
      const offset = at + seqDistance(seq, from);
      const covered = before === undefined ? 0 : before.payloadBytes - seqDistance(seq, before.seq);
      if (before !== undefined && covered > 0) {
        const length = Math.min(covered, seqDistance(endSeq, seq));
        const said = before.payloadEnd - covered;
        if (!equalBytes(before.batch, said, bytes, offset, length)) {
          this.#difference.set('contradiction', streamOffset(tcp, seqAdd(seq, tcp.delta)), BOTH);
          this.#difference.primary(before.batch, said, said + length);
          this.#difference.secondary(bytes, offset, offset + length);
          return false;
        }
        seq = seqAdd(seq, length);
        continue;
      }
      const after = before === undefined ? tcp.segments : before.next;
      if (after !== undefined && !seqBefore(seq, after.seq)) {
        before = after;
        continue;
      }
      const pieceEnd = after === undefined ? endSeq : seqMin(endSeq, after.seq);
      before = this.#insert(tcp, before, seq);
      before.payloadAt = offset;
      before.payloadEnd = offset + seqDistance(pieceEnd, seq);
      seq = pieceEnd;
    }
    return true;
  }

  /** Forgets the bytes from `seq` to `endSeq`, as far as pieces begin in there. */
  trim(tcp: TcpState, seq: number, endSeq: number): void {
    let before: Frame | undefined;
    let segment = tcp.segments;
    while (segment !== undefined && seqBefore(segment.seq, endSeq)) {
      const { next } = segment;
      const distance = seqDistance(endSeq, segment.seq);
      if (seqBefore(segment.seq, seq)) {
        before = segment;
      } else if (distance >= segment.payloadBytes) {
        if (before === undefined) tcp.segments = next;
        else before.next = next;
        if (next === undefined) tcp.lastSegment = before;
        this.#secondary.free(segment);
      } else {
        segment.seq = endSeq;
        segment.payloadAt += distance;
        return;
      }
      segment = next;
    }
  }

  clear(tcp: TcpState): void {
    for (let segment = tcp.segments; segment !== undefined; ) {
      const { next } = segment;
      this.#secondary.free(segment);
      segment = next;
    }
    tcp.segments = undefined;
    tcp.lastSegment = undefined;
  }

  /** The last piece that does not begin behind `seq`; nearly always the last of all. */
  #lastBefore(tcp: TcpState, seq: number): Frame | undefined {
    const last = tcp.lastSegment;
    if (last === undefined || !seqBefore(seq, last.seq)) return last;
    let before: Frame | undefined;
    for (let segment = tcp.segments; segment; segment = segment.next) {
      if (seqBefore(seq, segment.seq)) break;
      before = segment;
    }
    return before;
  }

  #insert(tcp: TcpState, before: Frame | undefined, seq: number): Frame {
    const frame = this.#frame as Frame;
    const piece = this.used ? this.#secondary.split(frame) : frame;
    this.used = true;
    piece.seq = seq;
    if (before === undefined) {
      piece.next = tcp.segments;
      tcp.segments = piece;
    } else {
      piece.next = before.next;
      before.next = piece;
    }
    if (piece.next === undefined) tcp.lastSegment = piece;
    return piece;
  }
}
