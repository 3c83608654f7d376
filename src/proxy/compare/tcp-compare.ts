/**
 * Compares one TCP connection of the two guests as two byte streams.
 *
 * In: the PVM's first held segment (`judge`), every segment of the SVM (`secondary`), what leaves
 * (`settle`). Out: hold, release, mismatch.
 *
 * A segment of the PVM may leave when
 *
 * - each of its bytes is what the SVM has said in this epoch, or what the client was sent before;
 * - its FIN is where the SVM's is;
 * - the SVM has acknowledged as much of the client's data as it does.
 *
 * A SYN with a new initial sequence number opens a connection: it waits for the SVM's, the two must
 * offer the same, and their numbers' difference is the translation for the epoch. Then it waits until
 * the secondary knows that translation, and with it all that follows it. What the SVM says
 * of a connection that the PVM has not opened yet waits in the flow's list (`svmHead`), so that the
 * bytes of two connections with the same ports are never mixed up. A reset leaves when the SVM has
 * said an equal one.
 *
 * What the SVM says again is compared with what the client was sent: if it differs, the SVM could
 * not take over from what the client has seen.
 *
 * Sources: RFC 9293 sections 3.4, 3.5 and 3.10, RFC 7323 section 2, RFC 7413 section 4.
 */
import { seqAdd, seqBefore, seqDistance, seqMax } from '../../lib/index.js';
import type { OpenedFlow } from '../opened-flow-wire.js';
import { Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN } from '../packet.js';
import { equalBytes } from './bytes.js';
import {
  type Flow,
  type Frame,
  type FrameList,
  hasAck,
  streamOffset,
  synOptions,
  type TcpState,
} from './flow.js';
import type { History } from './history.js';
import { NO_RECORD } from './history.js';
import { HOLD, type Judgement, MISMATCH, RELEASE } from './judgement.js';
import { RESETS_MAX } from './limits.js';
import type { Difference } from './mismatch.js';
import { findSegment, SegmentStore } from './tcp-stream.js';

const SCALE_MAX = 14;

export interface TcpCompareOptions {
  readonly vnetBytes: number;
  /** The SVM's waiting frames, where `secondary` frees what it doesn't need. */
  readonly waiting: FrameList;
  readonly history: History;
  readonly difference: Difference;
  /** True: the SYN waits until the secondary knows it, when `TcpState.unknown` is made false. */
  readonly opened: (flow: Flow, opened: OpenedFlow) => boolean;
}

export class TcpCompare {
  readonly #vnetBytes: number;
  readonly #waiting: FrameList;
  readonly #history: History;
  readonly #difference: Difference;
  readonly #opened: TcpCompareOptions['opened'];
  readonly #segments: SegmentStore;
  readonly #ours = new Packet();
  readonly #theirs = new Packet();

  constructor(options: TcpCompareOptions) {
    this.#vnetBytes = options.vnetBytes;
    this.#waiting = options.waiting;
    this.#history = options.history;
    this.#difference = options.difference;
    this.#opened = options.opened;
    this.#segments = new SegmentStore(options.waiting, options.difference);
  }

  /** Judges `frame`, the flow's first held one. */
  judge(flow: Flow, tcp: TcpState, frame: Frame): Judgement {
    const { flags } = frame;
    if ((flags & TCP_RST) !== 0) return this.#judgeReset(tcp, frame);
    if ((flags & TCP_SYN) !== 0) {
      const opening = this.#judgeOpening(flow, tcp, frame);
      if (opening !== RELEASE) return opening;
    }
    const data = this.#judgeData(tcp, frame);
    if (data !== RELEASE) return data;
    return isAckConfirmed(tcp, frame) ? RELEASE : HOLD;
  }

  /** Takes over a segment of the SVM. False: it contradicts what was said before. */
  secondary(flow: Flow, tcp: TcpState, frame: Frame): boolean {
    const isOpening = (frame.flags & (TCP_SYN | TCP_RST)) === TCP_SYN;
    const isNew = isOpening && !(tcp.svmIsnKnown && tcp.svmIsn === frame.seq);
    if (!isNew && flow.svmHead === undefined) return this.#takeSegment(tcp, frame);
    flow.appendSvm(frame);
    return true;
  }

  /** The client is sent this frame. `remembers`: its bytes become history. */
  settle(tcp: TcpState, frame: Frame, remembers: boolean): void {
    const { flags } = frame;
    if ((flags & TCP_RST) !== 0) return;
    const { payloadSeq } = frame;
    const endSeq = seqAdd(payloadSeq, frame.payloadBytes);
    if (remembers && frame.payloadBytes > 0) {
      this.#remember(tcp, frame);
      const from = seqAdd(payloadSeq, -tcp.delta);
      this.#segments.trim(tcp, from, seqAdd(from, frame.payloadBytes));
    }
    const nextSeq = seqAdd(endSeq, flags & TCP_FIN);
    if (!tcp.started) {
      tcp.started = true;
      tcp.high = nextSeq;
    } else {
      tcp.high = seqMax(tcp.high, nextSeq);
    }
    if ((flags & TCP_FIN) !== 0) {
      tcp.finKnown = true;
      tcp.fin = endSeq;
    }
  }

  /** As `settle`, for a frame that leaves with a checkpoint: what its SYN says is taken as it is. */
  settleUnjudged(tcp: TcpState, frame: Frame, remembers: boolean): void {
    const isOpening = (frame.flags & (TCP_SYN | TCP_RST)) === TCP_SYN;
    if (isOpening && !(tcp.isnKnown && tcp.isn === frame.seq)) {
      this.#parse(this.#ours, frame);
      beginConnection(tcp, this.#ours);
    }
    this.settle(tcp, frame, remembers);
  }

  #judgeOpening(flow: Flow, tcp: TcpState, frame: Frame): Judgement {
    const ours = this.#ours;
    if (tcp.isnKnown && tcp.isn === frame.seq) {
      this.#parse(ours, frame);
      if (synOptions(ours) === tcp.synOptions) return tcp.unknown ? HOLD : RELEASE;
      return this.#differs('opening', frame, frame, 'another SYN with other options');
    }
    const answer = flow.svmHead;
    if (answer === undefined) return HOLD;
    const theirs = this.#theirs;
    this.#parse(ours, frame);
    this.#parse(theirs, answer);
    const note = compareOpenings(ours, theirs);
    if (note !== '') return this.#differs('opening', frame, answer, note);
    this.#segments.clear(tcp);
    this.#forgetResets(tcp);
    beginConnection(tcp, ours);
    tcp.delta = (ours.seq - theirs.seq) >>> 0;
    tcp.svmIsnKnown = true;
    tcp.svmIsn = theirs.seq;
    tcp.svmHigh = seqAdd(theirs.seq, 1);
    tcp.svmSynWindow = theirs.window;
    tcp.unknown = this.#opened(flow, {
      key: Int32Array.from(flow.key),
      primaryIsn: ours.seq,
      secondaryIsn: theirs.seq,
      timestamps:
        ours.timestampsAt === 0
          ? undefined
          : {
              primary: frame.batch.readUInt32BE(ours.timestampsAt),
              secondary: answer.batch.readUInt32BE(theirs.timestampsAt),
            },
    });
    if (!this.#takeWaiting(flow, tcp)) return MISMATCH;
    return tcp.unknown ? HOLD : RELEASE;
  }

  /** What the SVM has said of the connection that the PVM has opened now. */
  #takeWaiting(flow: Flow, tcp: TcpState): boolean {
    for (let frame = flow.svmHead; frame !== undefined; frame = flow.svmHead) {
      const isOpening = (frame.flags & (TCP_SYN | TCP_RST)) === TCP_SYN;
      if (isOpening && frame.seq !== tcp.svmIsn) return true;
      flow.shiftSvm();
      if (!this.#takeSegment(tcp, frame)) return false;
    }
    return true;
  }

  #judgeData(tcp: TcpState, frame: Frame): Judgement {
    const length = frame.payloadBytes;
    const hasFin = (frame.flags & TCP_FIN) !== 0;
    if (length === 0 && !hasFin) return RELEASE;
    const { payloadSeq } = frame;
    const end = seqAdd(payloadSeq, length);
    if (tcp.svmFinKnown) {
      const fin = seqAdd(tcp.svmFin, tcp.delta);
      if (seqBefore(fin, end)) return this.#finDiffers(tcp, frame, 'the secondary ended before');
      if (hasFin && fin !== end) return this.#finDiffers(tcp, frame, 'the secondary goes on');
    } else if (hasFin && tcp.svmHighKnown && seqBefore(end, seqAdd(tcp.svmHigh, tcp.delta))) {
      return this.#finDiffers(tcp, frame, 'the secondary goes on');
    } else if (this.#endsBefore(tcp, end)) {
      return this.#finDiffers(tcp, frame, 'the secondary was reset before');
    }
    while (frame.confirmedBytes < length) {
      const judgement = this.#judgeRun(tcp, frame, seqAdd(payloadSeq, frame.confirmedBytes));
      if (judgement !== RELEASE) return judgement;
    }
    if (!hasFin || tcp.svmFinKnown) return RELEASE;
    return HOLD;
  }

  /** Compares as many bytes from `seq` on as one source has; these are confirmed then. */
  #judgeRun(tcp: TcpState, frame: Frame, seq: number): Judgement {
    const at = frame.payloadAt + frame.confirmedBytes;
    let run = frame.payloadEnd - at;
    if (tcp.started && seqBefore(seq, tcp.high)) {
      const history = this.#history;
      const sentAt = history.locate(tcp.historyNewest, seq, run);
      run = history.runBytes;
      if (sentAt >= 0) return this.#judgeBytes(tcp, frame, seq, history.arena, sentAt, run);
    }
    const theirSeq = seqAdd(seq, -tcp.delta);
    const segment = findSegment(tcp, theirSeq);
    if (segment === undefined) return HOLD;
    const theirAt = segment.payloadAt + seqDistance(theirSeq, segment.seq);
    run = Math.min(run, segment.payloadEnd - theirAt);
    return this.#judgeBytes(tcp, frame, seq, segment.batch, theirAt, run);
  }

  #judgeBytes(
    tcp: TcpState,
    frame: Frame,
    seq: number,
    theirs: Buffer,
    theirAt: number,
    run: number,
  ): Judgement {
    const at = frame.payloadAt + frame.confirmedBytes;
    if (equalBytes(frame.batch, at, theirs, theirAt, run)) {
      frame.confirmedBytes += run;
      return RELEASE;
    }
    this.#difference.set('data', streamOffset(tcp, seq));
    this.#difference.primary(frame.batch, at, at + run);
    this.#difference.secondary(theirs, theirAt, theirAt + run);
    return MISMATCH;
  }

  #judgeReset(tcp: TcpState, frame: Frame): Judgement {
    for (let reset = tcp.resets; reset !== undefined; reset = reset.next) {
      const inSequence = seqAdd(reset.seq, tcp.delta) === frame.seq || reset.seq === frame.seq;
      if (!inSequence || hasAck(reset) !== hasAck(frame)) continue;
      if (!hasAck(frame) || reset.ack === frame.ack) return RELEASE;
      if (tcp.svmAckKnown && !seqBefore(tcp.svmAck, frame.ack)) return RELEASE;
    }
    // Both guests gave up at the end of what they had said, and these ends are not the same.
    if (!tcp.started || frame.seq !== tcp.high) return HOLD;
    for (let reset = tcp.resets; reset !== undefined; reset = reset.next) {
      if (!reset.endsStream || seqAdd(reset.seq, tcp.delta) === frame.seq) continue;
      const distance = seqDistance(seqAdd(reset.seq, tcp.delta), frame.seq);
      return this.#differs('reset', frame, frame, `the secondary's is ${distance} bytes away`);
    }
    return HOLD;
  }

  #endsBefore(tcp: TcpState, end: number): boolean {
    for (let reset = tcp.resets; reset !== undefined; reset = reset.next) {
      if (reset.endsStream && seqBefore(seqAdd(reset.seq, tcp.delta), end)) return true;
    }
    return false;
  }

  /** Takes over a segment of the connection that both are in. */
  #takeSegment(tcp: TcpState, frame: Frame): boolean {
    const { flags, payloadSeq, payloadBytes, payloadAt } = frame;
    if ((flags & TCP_RST) !== 0) {
      this.#takeReset(tcp, frame);
      return true;
    }
    if ((flags & TCP_ACK) !== 0) noteAck(tcp, frame);
    const end = seqAdd(payloadSeq, payloadBytes);
    const hasFin = (flags & TCP_FIN) !== 0;
    if (payloadBytes === 0 && !hasFin) {
      this.#waiting.free(frame);
      return true;
    }
    const next = seqAdd(end, flags & TCP_FIN);
    tcp.svmHigh = tcp.svmHighKnown ? seqMax(tcp.svmHigh, next) : next;
    tcp.svmHighKnown = true;
    if (!this.#finFits(tcp, frame, end, hasFin)) return false;
    const segments = this.#segments;
    segments.begin(frame);
    const fits = this.#takeBytes(tcp, frame, payloadSeq, payloadAt);
    if (fits && !segments.used) this.#waiting.free(frame);
    return fits;
  }

  /** The SVM's end against what it has said before, which the PVM's FIN was equal to. */
  #finFits(tcp: TcpState, frame: Frame, end: number, hasFin: boolean): boolean {
    if (tcp.svmFinKnown && (seqBefore(tcp.svmFin, end) || (hasFin && tcp.svmFin !== end))) {
      this.#finDiffers(tcp, frame, 'it had ended elsewhere');
      return false;
    }
    if (hasFin) {
      tcp.svmFinKnown = true;
      tcp.svmFin = end;
    }
    return true;
  }

  #takeBytes(tcp: TcpState, frame: Frame, theirSeq: number, from: number): boolean {
    const { batch } = frame;
    const end = from + frame.payloadBytes;
    let at = from;
    while (at < end) {
      const theirs = seqAdd(theirSeq, at - from);
      const seq = seqAdd(theirs, tcp.delta);
      let run = end - at;
      if (tcp.started && seqBefore(seq, tcp.high)) {
        const history = this.#history;
        const sentAt = history.locate(tcp.historyNewest, seq, run);
        run = history.runBytes;
        if (sentAt >= 0) {
          if (!equalBytes(history.arena, sentAt, batch, at, run)) {
            this.#difference.set('contradiction', streamOffset(tcp, seq), 'the client saw other');
            this.#difference.primary(history.arena, sentAt, sentAt + run);
            this.#difference.secondary(batch, at, at + run);
            return false;
          }
          at += run;
          continue;
        }
      }
      if (!this.#segments.add(tcp, theirs, at, at + run)) return false;
      at += run;
    }
    return true;
  }

  #takeReset(tcp: TcpState, frame: Frame): void {
    frame.endsStream = tcp.svmHighKnown && tcp.svmHigh === frame.seq;
    let last: Frame | undefined;
    let resets = 0;
    for (let reset = tcp.resets; reset !== undefined; reset = reset.next) {
      if (reset.seq === frame.seq && reset.ack === frame.ack && reset.flags === frame.flags) {
        this.#waiting.free(frame);
        return;
      }
      if (++resets < RESETS_MAX) last = reset;
    }
    if (resets === RESETS_MAX && last?.next !== undefined) {
      this.#waiting.free(last.next);
      last.next = undefined;
    }
    frame.next = tcp.resets;
    tcp.resets = frame;
  }

  #forgetResets(tcp: TcpState): void {
    for (let reset = tcp.resets; reset !== undefined; ) {
      const { next } = reset;
      this.#waiting.free(reset);
      reset = next;
    }
    tcp.resets = undefined;
  }

  /** Puts the segment's bytes into history, unless they are there. */
  #remember(tcp: TcpState, frame: Frame): void {
    const { batch, payloadAt, payloadEnd, payloadSeq } = frame;
    const history = this.#history;
    for (let at = payloadAt; at < payloadEnd; ) {
      const seq = seqAdd(payloadSeq, at - payloadAt);
      let run = payloadEnd - at;
      let isSent = false;
      if (tcp.started && seqBefore(seq, tcp.high)) {
        isSent = history.locate(tcp.historyNewest, seq, run) >= 0;
        run = history.runBytes;
      }
      if (!isSent) tcp.historyNewest = history.add(tcp.historyNewest, seq, batch, at, at + run);
      at += run;
    }
  }

  #finDiffers(tcp: TcpState, frame: Frame, note: string): Judgement {
    const end = seqAdd(frame.payloadSeq, frame.payloadBytes);
    this.#difference.set('fin', streamOffset(tcp, end), note);
    this.#difference.primary(frame.batch, frame.payloadEnd, frame.payloadEnd);
    return MISMATCH;
  }

  /** The TCP headers are what differs. */
  #differs(kind: 'opening' | 'reset', ours: Frame, theirs: Frame, note: string): Judgement {
    this.#difference.set(kind, 0, note);
    this.#difference.primary(ours.batch, ours.transportAt, ours.payloadAt);
    this.#difference.secondary(theirs.batch, theirs.transportAt, theirs.payloadAt);
    return MISMATCH;
  }

  #parse(packet: Packet, frame: Frame): void {
    packet.parse(frame.batch, frame.start + 4 + this.#vnetBytes, frame.end, true);
  }
}

/** The SVM has acknowledged as much of the client's data as `frame` does. */
export function isAckConfirmed(tcp: TcpState, frame: Frame): boolean {
  if ((frame.flags & TCP_ACK) === 0) return true;
  return tcp.svmAckKnown && !seqBefore(tcp.svmAck, frame.ack);
}

/** Why the guests don't open the same connection, or ''. */
function compareOpenings(ours: Packet, theirs: Packet): string {
  if (((ours.flags ^ theirs.flags) & TCP_ACK) !== 0) return 'SYN and SYN-ACK';
  if ((ours.flags & TCP_ACK) !== 0 && ours.ack !== theirs.ack) return 'acknowledgements';
  return synOptions(ours) === synOptions(theirs) ? '' : 'options';
}

/** The PVM opens a connection; of the SVM nothing is known but that it does the same. */
function beginConnection(tcp: TcpState, syn: Packet): void {
  tcp.started = true;
  tcp.isnKnown = true;
  tcp.isn = syn.seq;
  tcp.first = seqAdd(syn.seq, 1);
  tcp.high = tcp.first;
  tcp.synOptions = synOptions(syn);
  tcp.finKnown = false;
  tcp.ackKnown = false;
  tcp.historyNewest = NO_RECORD;
  tcp.toldKnown = false;
  tcp.clamped = false;
  tcp.svmAckKnown = false;
  tcp.svmHighKnown = true;
  tcp.svmHigh = tcp.high;
  tcp.svmSynWindow = syn.window;
  tcp.svmFinKnown = false;
  const offered = Math.min(syn.windowScale, SCALE_MAX);
  tcp.scaleOffered = offered;
  // A SYN-ACK has the option only if the SYN that it answers had it (RFC 7323 section 2.2).
  if (offered < 0) tcp.scale = 0;
  else tcp.scale = (syn.flags & TCP_ACK) === 0 ? -1 : offered;
}

function noteAck(tcp: TcpState, frame: Frame): void {
  if (tcp.svmAckKnown && seqBefore(frame.ack, tcp.svmAck)) return;
  const scale = (frame.flags & TCP_SYN) !== 0 ? 0 : Math.max(tcp.scale, 0);
  tcp.svmAckKnown = true;
  tcp.svmAck = frame.ack;
  tcp.svmWindow = frame.window;
  tcp.svmEdge = seqAdd(frame.ack, frame.window << scale);
}
