/**
 * What the comparer keeps: frames that wait, and per flow what is known of both sides.
 *
 * Objects of both kinds are made once and used again and again, so that a packet allocates nothing.
 * A frame in use is in two lists: its flow's, and its side's of all frames in arrival order.
 *
 * TCP: positions of the PVM's stream are in the PVM's sequence space, which is the client's. What
 * the SVM says stays in the SVM's; `delta` is what to add to get to the PVM's: the difference of
 * the initial sequence numbers for a connection opened in this epoch, else 0, because at a
 * checkpoint the guests are identical. Acknowledgements need no translation: they count the
 * client's bytes.
 */
import { seqAdd, seqDistance } from '../../lib/index.js';
import {
  FLOW_KEY_WORDS,
  PACKET_FRAGMENT,
  PACKET_OPAQUE,
  PACKET_TCP,
  type Packet,
  TCP_ACK,
  TCP_SYN,
} from '../packet.js';
import { NO_RECORD } from './history.js';

const NO_BYTES: Buffer = Buffer.alloc(0);

/** A frame, or (SVM's TCP) a piece of one, that waits for the other side. */
export class Frame {
  /** The whole frame with its length, in `batch`; all other offsets are into `batch`, too. */
  batch = NO_BYTES;
  start = 0;
  end = 0;
  flow: Flow | undefined;
  arrivalUs = 0;
  /** As in `Packet`. */
  kind = 0;
  transportAt = 0;
  payloadAt = 0;
  payloadEnd = 0;
  seq = 0;
  ack = 0;
  flags = 0;
  window = 0;
  /** Fragments: offset, plus 1 if more follow. */
  fragment = 0;
  /** PVM's TCP: so much of the payload has been found equal. */
  confirmedBytes = 0;
  /** SVM's reset: it lies at the end of what the SVM had sent, which so ended there. */
  endsStream = false;

  /** In the flow's list. */
  next: Frame | undefined;
  /** In the side's list. */
  older: Frame | undefined;
  newer: Frame | undefined;

  /** Position in the stream of the first payload byte: a SYN takes one before it. */
  get payloadSeq(): number {
    return (this.flags & TCP_SYN) === 0 ? this.seq : seqAdd(this.seq, 1);
  }

  get payloadBytes(): number {
    return this.payloadEnd - this.payloadAt;
  }
}

/** All waiting frames of one side, in arrival order. Frames that are freed are used again. */
export class FrameList {
  first: Frame | undefined;
  #last: Frame | undefined;
  #free: Frame | undefined;
  frames = 0;
  bytes = 0;

  /** A frame at the end of the list, filled from `packet`. */
  take(batch: Buffer, start: number, packet: Packet): Frame {
    const frame = this.#takeFree();
    frame.batch = batch;
    frame.start = start;
    frame.end = packet.frameEnd;
    frame.kind = packet.kind;
    if (packet.kind === PACKET_OPAQUE) {
      frame.payloadAt = Math.min(packet.frameAt, packet.frameEnd);
      frame.payloadEnd = packet.frameEnd;
    } else {
      frame.transportAt = packet.transportAt;
      frame.payloadAt = packet.payloadAt;
      frame.payloadEnd = packet.end;
    }
    frame.fragment = 0;
    if (packet.kind === PACKET_TCP) {
      frame.seq = packet.seq;
      frame.ack = packet.ack;
      frame.flags = packet.flags;
      frame.window = packet.window;
      frame.confirmedBytes = 0;
      frame.endsStream = false;
    } else if (packet.kind === PACKET_FRAGMENT) {
      frame.fragment = packet.fragmentOffset + (packet.moreFragments ? 1 : 0);
    }
    this.#append(frame);
    return frame;
  }

  /** Another piece of what `frame` is a piece of. */
  split(frame: Frame): Frame {
    const piece = this.#takeFree();
    piece.batch = frame.batch;
    // Its bytes are counted with the first piece.
    piece.start = frame.end;
    piece.end = frame.end;
    piece.flow = frame.flow;
    piece.kind = frame.kind;
    piece.transportAt = frame.transportAt;
    piece.flags = frame.flags & ~TCP_SYN;
    piece.arrivalUs = frame.arrivalUs;
    this.#append(piece);
    return piece;
  }

  /** `frame` has become shorter by so much. */
  shortened(bytes: number): void {
    this.bytes -= bytes;
  }

  free(frame: Frame): void {
    const { older, newer } = frame;
    if (older === undefined) this.first = newer;
    else older.newer = newer;
    if (newer === undefined) this.#last = older;
    else newer.older = older;
    this.frames--;
    this.bytes -= frame.end - frame.start;
    frame.batch = NO_BYTES;
    frame.flow = undefined;
    frame.older = undefined;
    frame.newer = undefined;
    frame.next = this.#free;
    this.#free = frame;
  }

  clear(): void {
    while (this.first !== undefined) this.free(this.first);
  }

  #takeFree(): Frame {
    const frame = this.#free;
    if (frame === undefined) return new Frame();
    this.#free = frame.next;
    frame.next = undefined;
    return frame;
  }

  #append(frame: Frame): void {
    frame.older = this.#last;
    if (this.#last === undefined) this.first = frame;
    else this.#last.newer = frame;
    this.#last = frame;
    this.frames++;
    this.bytes += frame.end - frame.start;
  }
}

/** Room for Ethernet, two VLAN tags, IPv6 with 80 bytes of extensions and TCP with timestamps. */
export const TEMPLATE_BYTES_MAX = 200;

/** Headers for a packet of ours (see tcp-window.ts); `end` is 0 while there is none. */
export class WindowTemplate {
  readonly bytes: Buffer = Buffer.alloc(TEMPLATE_BYTES_MAX);
  ipVersion = 0;
  ipAt = 0;
  transportAt = 0;
  end = 0;
}

/** What is known of a TCP connection. A value is meaningless while its `...Known` is false. */
export class TcpState {
  /** The PVM's stream has begun, and `high` is known. */
  started = false;
  /** Stream offset 0: the byte behind the SYN, or where the flow was first seen. */
  first = 0;
  /** Behind the last byte, SYN or FIN that the client was sent. */
  high = 0;
  isnKnown = false;
  isn = 0;
  /** Options of the SYN: see `synOptions`. */
  synOptions = 0;
  finKnown = false;
  fin = 0;
  /** Highest acknowledgement that the client was sent; window and edge as the PVM meant them. */
  ackKnown = false;
  ack = 0;
  window = 0;
  edge = 0;
  historyNewest = NO_RECORD;

  /** Window scale of the guest's side; -1: not known. */
  scale = -1;
  /** Offered in the guest's SYN; used if the remote end offers one too. */
  scaleOffered = -1;
  /** What the client was told last: the right edge, the window as it was in the segment. */
  toldKnown = false;
  toldEdge = 0;
  toldWindow = 0;
  /** The client was told less than the PVM meant; `template` is then the packet to tell it more. */
  clamped = false;
  template: WindowTemplate | undefined;

  /** The secondary has not said yet that it knows this connection: its SYN must not leave. */
  unknown = false;

  /** The SVM in this epoch. */
  delta = 0;
  svmIsnKnown = false;
  svmIsn = 0;
  svmSynWindow = 0;
  svmAckKnown = false;
  svmAck = 0;
  svmWindow = 0;
  svmEdge = 0;
  svmHighKnown = false;
  svmHigh = 0;
  svmFinKnown = false;
  svmFin = 0;
  /** Pieces of the SVM's stream, in order, none overlapping another. */
  segments: Frame | undefined;
  lastSegment: Frame | undefined;
  /** Resets that the SVM sent, newest first. */
  resets: Frame | undefined;

  /** Nothing is known. The caller has freed what the lists held. */
  reset(): void {
    this.started = false;
    this.isnKnown = false;
    this.finKnown = false;
    this.ackKnown = false;
    this.historyNewest = NO_RECORD;
    this.scale = -1;
    this.scaleOffered = -1;
    this.toldKnown = false;
    this.clamped = false;
    this.beginEpoch();
  }

  /** The SVM is the PVM as it was at the checkpoint. */
  beginEpoch(): void {
    this.unknown = false;
    this.delta = 0;
    this.svmIsnKnown = this.isnKnown;
    this.svmIsn = this.isn;
    this.svmAckKnown = this.ackKnown;
    this.svmAck = this.ack;
    this.svmWindow = this.window;
    this.svmEdge = this.edge;
    this.svmHighKnown = this.started;
    this.svmHigh = this.high;
    this.svmFinKnown = this.finKnown;
    this.svmFin = this.fin;
    this.segments = undefined;
    this.lastSegment = undefined;
    this.resets = undefined;
  }
}

export class Flow {
  /** Place in the table. */
  readonly index: number;
  readonly key = new Int32Array(FLOW_KEY_WORDS);
  hash = 0;
  /** Next with the same bucket. */
  nextInBucket: Flow | undefined;
  /** By time of use. */
  lessRecent: Flow | undefined;
  moreRecent: Flow | undefined;

  /** What is said of the SVM, of waiting frames and `stopped` is of this epoch. */
  epoch = -1;
  /** Nothing of this flow is released any more in this epoch. */
  stopped = false;
  /** Held PVM frames, first to be judged first. */
  pvmHead: Frame | undefined;
  pvmTail: Frame | undefined;
  /** SVM frames that wait. TCP: a new connection's SYN, and all that came after it. */
  svmHead: Frame | undefined;
  svmTail: Frame | undefined;
  svmFrames = 0;
  /** Defined for TCP. */
  tcp: TcpState | undefined;

  constructor(index: number) {
    this.index = index;
  }

  beginEpoch(epoch: number): void {
    this.epoch = epoch;
    this.stopped = false;
    this.pvmHead = undefined;
    this.pvmTail = undefined;
    this.svmHead = undefined;
    this.svmTail = undefined;
    this.svmFrames = 0;
    this.tcp?.beginEpoch();
  }

  appendPvm(frame: Frame): void {
    frame.flow = this;
    if (this.pvmTail === undefined) this.pvmHead = frame;
    else this.pvmTail.next = frame;
    this.pvmTail = frame;
  }

  shiftPvm(): void {
    this.pvmHead = this.pvmHead?.next;
    if (this.pvmHead === undefined) this.pvmTail = undefined;
  }

  appendSvm(frame: Frame): void {
    frame.flow = this;
    if (this.svmTail === undefined) this.svmHead = frame;
    else this.svmTail.next = frame;
    this.svmTail = frame;
    this.svmFrames++;
  }

  /** Takes the SVM's first waiting frame out, which the caller then owns. */
  shiftSvm(): void {
    const frame = this.svmHead;
    if (frame === undefined) return;
    this.svmHead = frame.next;
    if (this.svmHead === undefined) this.svmTail = undefined;
    frame.next = undefined;
    this.svmFrames--;
  }

  /** Nothing would be lost for this epoch if the flow were forgotten. */
  isForgettable(epoch: number): boolean {
    if (this.epoch !== epoch) return true;
    if (this.stopped || this.pvmHead !== undefined || this.svmHead !== undefined) return false;
    const { tcp } = this;
    if (tcp === undefined) return true;
    return tcp.delta === 0 && tcp.segments === undefined && tcp.resets === undefined;
  }
}

/** MSS, window scale and permissions of a SYN in one number: equal if the options are. */
export function synOptions(packet: Packet): number {
  const { maxSegmentSize, windowScale, sackPermitted, timestampsAt } = packet;
  const bits = ((windowScale + 1) << 2) | (sackPermitted ? 2 : 0) | (timestampsAt > 0 ? 1 : 0);
  return (maxSegmentSize + 1) * 1024 + bits;
}

export function hasAck(frame: Frame): boolean {
  return (frame.flags & TCP_ACK) !== 0;
}

/** How far the PVM's sequence number is in its stream. */
export function streamOffset(tcp: TcpState, seq: number): number {
  return seqDistance(seq, tcp.first);
}
