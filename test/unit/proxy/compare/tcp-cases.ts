/**
 * How the tables of TCP cases are written down: segments by position in the stream, steps in the
 * order in which they happen, and what leaves after each.
 */
import test, { type ExecutionContext } from 'ava';
import type { MismatchKind } from '../../../../src/proxy/index.js';
import { ComparerPair, type PairOptions } from '../../../support/comparer-pair.js';
import { ACK, FIN, numbersOf, PSH, RST, type Segment, SYN } from '../../../support/packets.js';

/** The stream: byte N has a value of its own as far as 251 positions tell. */
export function streamBytes(from: number, length: number, salt = 0): Buffer {
  return Buffer.from(Array.from({ length }, (_, index) => ((from + index) % 251) ^ salt));
}

/** Where the guest's stream and the client's begin in most cases. */
export const SEQ = 1000;
export const CLIENT = 50_000;

type Extra = Partial<Segment> & { readonly base?: number };

/** Bytes `from` to `from + length` of the guest's stream. */
export function data(from: number, length: number, extra: Extra = {}): Segment {
  const { base = SEQ, ...rest } = extra;
  return {
    seq: (base + from) >>> 0,
    ack: CLIENT,
    flags: ACK | PSH,
    payload: streamBytes(from, length),
    ...rest,
  };
}

/** A pure acknowledgement of `bytes` of the client's stream, at position `from` of ours. */
export function ack(bytes: number, from = 0, extra: Extra = {}): Segment {
  const { base = SEQ, ...rest } = extra;
  return { seq: (base + from) >>> 0, ack: (CLIENT + bytes) >>> 0, flags: ACK, ...rest };
}

export function fin(from: number, extra: Extra = {}): Segment {
  return data(from, 0, { flags: ACK | FIN, ...extra });
}

export function rst(from: number, extra: Extra = {}): Segment {
  const { base = SEQ, ...rest } = extra;
  return { seq: (base + from) >>> 0, ack: 0, flags: RST, ...rest };
}

/** MSS, SACK permitted, window scale 7, and timestamps if given. */
export function synOptions(
  { mss = 1460, scale = 7, sack = true }: { mss?: number; scale?: number; sack?: boolean } = {},
  timestamp?: number,
): Buffer {
  const bytes = [2, 4, mss >> 8, mss & 0xff, ...(sack ? [4, 2] : [1, 1])];
  bytes.push(...(scale >= 0 ? [3, 3, scale, 1] : [1, 1, 1, 1]), 1, 1);
  if (timestamp === undefined) return Buffer.from(bytes);
  const option = Buffer.alloc(10);
  option.writeUInt16BE(0x080a, 0);
  option.writeUInt32BE(timestamp, 2);
  return Buffer.concat([Buffer.from(bytes), Buffer.from([1, 1]), option]);
}

export function syn(isn: number, extra: Partial<Segment> = {}): Segment {
  return { seq: isn, ack: 0, flags: SYN, window: 64_240, options: synOptions(), ...extra };
}

export function synAck(isn: number, extra: Partial<Segment> = {}): Segment {
  return syn(isn, { flags: SYN | ACK, ack: CLIENT, ...extra });
}

/** A pair with the assertions that every case needs. */
export class Case extends ComparerPair {
  readonly #t: ExecutionContext;

  constructor(t: ExecutionContext, options?: PairOptions) {
    super(options);
    this.#t = t;
  }

  /** Exactly these segments left since the last look, unchanged and in this order. */
  leaves(...segments: readonly Segment[]): void {
    const expected = segments.map((segment) => this.frame(segment).toString('hex'));
    const left = this.left().map((frame) => frame.toString('hex'));
    this.#t.deepEqual(left, expected, this.describe());
  }

  /** Nobody asked for a checkpoint. */
  agrees(): void {
    this.#t.deepEqual(this.asked, [], this.describe());
  }

  /** A checkpoint was asked for because of such a difference; nothing more left. */
  differs(kind: MismatchKind): void {
    this.#t.deepEqual(this.asked, ['divergence']);
    this.#t.is(this.explained[0]?.kind, kind, this.describe());
    this.leaves();
  }

  /** These segments leave with the checkpoint. */
  leavesAtCheckpoint(...segments: readonly Segment[]): void {
    const expected = segments.map((segment) => this.frame(segment).toString('hex'));
    const left = this.checkpoint().map((frame) => frame.toString('hex'));
    this.#t.deepEqual(left, expected);
  }

  /** A handshake in which the guests answer with their own numbers. */
  accept(primaryIsn: number, secondaryIsn: number, extra: Partial<Segment> = {}): void {
    this.pvm(synAck(primaryIsn, extra));
    this.svm(synAck(secondaryIsn, extra));
    this.leaves(synAck(primaryIsn, extra));
    this.#t.is(this.opened.length, 1);
    this.opened.length = 0;
  }

  /** The windows that the client was told since the last look. */
  windows(): number[] {
    return this.left().map((frame) => {
      const at = this.flow.vnetBytes + 14 + (this.flow.version === 4 ? 20 : 40) + 14;
      return frame.readUInt16BE(at + this.flow.vlans.length * 4);
    });
  }

  numbers(frame: Buffer): ReturnType<typeof numbersOf> {
    return numbersOf(this.flow, frame, true);
  }
}

/** One case of a table; its name says what must be. */
export function tcpCase(name: string, run: (pair: Case, t: ExecutionContext) => void): void {
  test(name, (t) => {
    const pair = new Case(t);
    run(pair, t);
    const { heldFrames, heldBytes } = pair.comparer.counters;
    t.is(heldFrames === 0, heldBytes === 0);
    t.pass();
  });
}
