/**
 * Lockstep: what the PVM says leaves as soon as the SVM has said the same.
 *
 * In: batches of both guests (`primary`, `secondary`), time, the epochs' edges, and which new
 * connections the secondary knows. Out, by a sink: frames that may leave, connections that both
 * guests opened, requests for a checkpoint.
 *
 *     PVM's frame -> its flow's list -> first one judged -> released
 *                                                        -> held: for the SVM, or the checkpoint
 *     SVM's frame -> its flow        -> the flow's first held frames judged again
 *
 * Held frames of a flow leave in order, since only the first is judged. A flow whose guests differ
 * is *stopped*: none of its frames leaves before the checkpoint, and none is dropped. Frames leave
 * by `closeEpoch` at the latest.
 *
 * Epochs: between `closeEpoch` and `start` the SVM does not run, and nothing leaves. With `start`
 * the guests are identical, so sequence numbers and acknowledgements of the PVM count as the SVM's.
 *
 * Invariants: I1 in mode colo: a released byte was said by the SVM too, or sent before; an
 * acknowledgement covers only what the SVM has; a new connection's numbers are known where the SVM
 * is. A held frame is released or given back, once.
 */
import { ProtocolError, seqAdd } from '../../lib/index.js';
import type { OpenedFlow } from '../opened-flow-wire.js';
import {
  hashKey,
  PACKET_FRAGMENT,
  PACKET_OPAQUE,
  PACKET_TCP,
  Packet,
  PROTOCOL_TCP,
  TCP_RST,
} from '../packet.js';
import { type ComparerCounters, type MutableCounters, newCounters } from './comparer-counters.js';
import { judgeDatagram, judgeOpaque, waitOpaque } from './datagrams.js';
import { Flow, Frame, FrameList, streamOffset, type TcpState } from './flow.js';
import { FlowTable, prepareFlow } from './flow-table.js';
import { FRAGMENTED_TCP, FragmentMap } from './fragments.js';
import { History } from './history.js';
import { noteInboundSyns } from './inbound-syns.js';
import { HOLD, type Judgement, MISMATCH, RELEASE } from './judgement.js';
import { type CompareLimits, DEFAULT_COMPARE_LIMITS, HISTORY_AT_EDGE_BYTES } from './limits.js';
import { Difference, type Mismatch } from './mismatch.js';
import { isAckConfirmed, TcpCompare } from './tcp-compare.js';
import { confirmedSegmentBytes, splitSegment } from './tcp-split.js';
import { findSegment } from './tcp-stream.js';
import {
  keepTemplate,
  lowerWindow,
  makeWindowUpdate,
  tellWindow,
  windowToOffer,
} from './tcp-window.js';

const LENGTH_BYTES = 4;
const NO_BATCH: Buffer = Buffer.alloc(0);

export interface ComparerOptions {
  /** Bytes in front of each Ethernet header: 10 for frames of a TAP with virtio headers, else 0. */
  readonly vnetBytes: number;
  /** So long a frame waits for the SVM before a checkpoint is asked for; see `start`. */
  readonly compareTimeoutUs: number;
  /**
   * The SVM's host has to be told of a new connection: the PVM's SYN or SYN-ACK, and what follows
   * it in its flow, waits for `flowsKnown`. Default: nobody is told.
   */
  readonly awaitsFlowsKnown?: boolean;
  readonly limits?: Partial<CompareLimits>;
}

export type CheckpointReason = 'divergence' | 'timeout' | 'bound';

/**
 *     primary     release, hold, mismatch (held, too), checkpoint (leaves with the checkpoint),
 *                 made (a window update, which the comparer has written itself)
 *     secondary   taken, mismatch, dropped (the flow is stopped, or a bound was reached)
 *
 * A held frame gets a second verdict.
 */
export type Verdict =
  | ('release' | 'hold' | 'mismatch' | 'checkpoint' | 'made')
  | ('taken' | 'dropped');

/** Called in the middle of the comparer's work: must not call it back. */
export interface ComparerSink {
  /** The whole frames (with their lengths) from `start` to `end` of `batch` may leave now. */
  release(batch: Buffer, start: number, end: number): void;
  /**
   * Both guests opened this connection; called before the PVM's SYN or SYN-ACK is released. In an
   * epoch these are counted from 1: see `flowsKnown`.
   */
  opened(flow: OpenedFlow): void;
  /** A checkpoint is needed. At most once for each reason in an epoch. */
  checkpoint(reason: CheckpointReason, explain: () => Mismatch): void;
  /** Every flow that is stopped for a difference, also those after the first of an epoch. */
  mismatch?(explain: () => Mismatch): void;
  /** What became of the frame at `start` of `batch` (its length). For captures. */
  verdict?(side: 'primary' | 'secondary', batch: Buffer, start: number, verdict: Verdict): void;
}

export class Comparer {
  readonly #sink: ComparerSink;
  readonly #vnetBytes: number;
  readonly #timeoutUs: number;
  readonly #limits: CompareLimits;
  readonly #flows: FlowTable;
  /** Holds what has no place in the table. While it is used the table takes no new flow. */
  readonly #overflow = new Flow(-1);
  readonly #held = new FrameList();
  readonly #ahead = new FrameList();
  readonly #difference = new Difference();
  readonly #tcp: TcpCompare;
  readonly #packet = new Packet();
  readonly #scratch = new Packet();
  /** The part of a frame that leaves before the rest. */
  readonly #part = new Frame();
  readonly #primaryFragments = new FragmentMap();
  readonly #secondaryFragments = new FragmentMap();
  readonly #counters: MutableCounters = newCounters();
  readonly #asked = new Set<CheckpointReason>();
  readonly #awaitsFlowsKnown: boolean;
  /** New connections of this epoch that the secondary knows, and those that it doesn't, in order. */
  #knownFlows = 0;
  #unknownFlows: Flow[] = [];

  #epoch = 0;
  #running = false;
  #startUs = 0;
  #waitUs = 0;
  #anyClamped = false;
  #overflowing = false;
  /** Released frames next to each other in one batch leave together. */
  #leaving = NO_BATCH;
  #leavingStart = 0;
  #leavingEnd = 0;

  constructor(options: ComparerOptions, sink: ComparerSink) {
    this.#sink = sink;
    this.#vnetBytes = options.vnetBytes;
    this.#timeoutUs = options.compareTimeoutUs;
    this.#awaitsFlowsKnown = options.awaitsFlowsKnown === true;
    this.#limits = { ...DEFAULT_COMPARE_LIMITS, ...options.limits };
    this.#flows = new FlowTable(this.#limits.flowsMax);
    this.#tcp = new TcpCompare({
      vnetBytes: options.vnetBytes,
      waiting: this.#ahead,
      history: new History(this.#limits.historyBytes),
      difference: this.#difference,
      opened: (flow, opened) => this.#reportOpened(flow, opened),
    });
  }

  /** Bytes of the frames that are held now, lengths included. */
  get heldBytes(): number {
    return this.#held.bytes;
  }

  get counters(): ComparerCounters {
    return {
      ...this.#counters,
      heldFrames: this.#held.frames,
      heldBytes: this.#held.bytes,
      aheadFrames: this.#ahead.frames,
      aheadBytes: this.#ahead.bytes,
      flows: this.#flows.size,
    };
  }

  /**
   * The PVM's output in the running epoch. The comparer owns the batch from now on: it may lower a
   * window in it, and hands it out again in parts.
   */
  primary(batch: Buffer, nowUs: number): void {
    this.#takeAllPrimary(batch, nowUs);
    const { frames, bytes } = this.#held;
    if (frames > this.#limits.heldFramesSoft || bytes > this.#limits.heldBytesSoft) {
      this.#reachBound('output held for the secondary');
    }
    this.#flush();
  }

  /** The SVM's output in the running epoch. It may be kept and is not modified. */
  secondary(batch: Buffer, nowUs: number): void {
    this.#takeAllSecondary(batch, nowUs);
    this.#flush();
  }

  /**
   * The secondary knows the first `count` connections that were opened in this epoch. Throws
   * `ProtocolError` if there are not so many, or if it knew more before.
   */
  flowsKnown(count: number): void {
    const news = count - this.#knownFlows;
    if (news < 0 || news > this.#unknownFlows.length) {
      const opened = this.#knownFlows + this.#unknownFlows.length;
      throw new ProtocolError(
        `The secondary knows ${count} connections of ${opened}, and knew ${this.#knownFlows}`,
      );
    }
    this.#knownFlows = count;
    for (const flow of this.#unknownFlows.splice(0, news)) {
      if (flow.tcp !== undefined) flow.tcp.unknown = false;
      this.#judgeHeads(flow);
    }
    this.#flush();
  }

  /**
   * Frames for the guest. Whether the remote end takes part in window scaling is seen here, for
   * connections that the guest opens; without it their windows are bounded more carefully.
   */
  inbound(batch: Buffer): void {
    noteInboundSyns(batch, this.#vnetBytes, this.#scratch, this.#flows);
  }

  /**
   * The SVM runs the epoch from now on, from the same state as the PVM did. `linkUs`: a word's way
   * to it and the answer's back, which each frame may take longer to be confirmed.
   */
  start(nowUs: number, linkUs = 0): void {
    this.#running = true;
    this.#startUs = nowUs;
    this.#waitUs = this.#timeoutUs + linkUs;
    if (this.#anyClamped) this.#offerWindows();
    for (let frame = this.#held.first; frame !== undefined; ) {
      const { newer, flow } = frame;
      // The older ones of its flow were judged before it.
      if (flow !== undefined && flow.pvmHead === frame && !flow.stopped) this.#judgeHead(flow);
      frame = newer;
    }
    this.#flush();
  }

  /**
   * The epoch ends here: everything held, in the order in which it came, to leave with the
   * checkpoint. The next epoch's output is held until `start`.
   */
  closeEpoch(): Buffer[] {
    const batches: Buffer[] = [];
    let batch = NO_BATCH;
    let [start, end, seenBytes] = [0, 0, 0];
    for (let frame = this.#held.first; frame !== undefined; frame = frame.newer) {
      seenBytes += frame.end - frame.start;
      this.#settleUnjudged(frame, seenBytes <= HISTORY_AT_EDGE_BYTES);
      this.#sink.verdict?.('primary', frame.batch, frame.start, 'checkpoint');
      if (frame.batch === batch && frame.start === end) {
        end = frame.end;
        continue;
      }
      if (end > start) batches.push(batch.subarray(start, end));
      ({ batch, start, end } = frame);
    }
    if (end > start) batches.push(batch.subarray(start, end));
    this.#beginEpoch();
    this.#secondaryFragments.copyFrom(this.#primaryFragments);
    return batches;
  }

  /** When `tick` has something to do. Once a checkpoint is asked for, there is nothing to wait for. */
  deadlineUs(): number | undefined {
    const oldest = this.#held.first;
    if (oldest === undefined || !this.#running || this.#asked.size > 0) return undefined;
    return Math.max(oldest.arrivalUs, this.#startUs) + this.#waitUs;
  }

  tick(nowUs: number): void {
    const deadlineUs = this.deadlineUs();
    const oldest = this.#held.first;
    if (deadlineUs === undefined || nowUs < deadlineUs || oldest?.flow === undefined) return;
    this.#counters.timeouts++;
    const said = this.#describeWait(oldest.flow, oldest);
    this.#difference.set('timeout', said.offset, 'the secondary has not confirmed it in time');
    this.#difference.primary(oldest.batch, said.at, oldest.payloadEnd);
    if (said.theirs !== undefined) {
      const { batch, payloadAt, payloadEnd } = said.theirs;
      this.#difference.secondary(batch, payloadAt, payloadEnd);
    }
    this.#ask('timeout', this.#difference.toMismatch(oldest.flow.key));
  }

  // Each hot loop is a function of its own: V8 (seen with Node 20) can enter optimised code in the
  // middle of a loop again and again although an assumption made for what follows the loop does
  // not hold any more, and then leaves it the slow way each time.
  #takeAllPrimary(batch: Buffer, nowUs: number): void {
    const packet = this.#packet;
    for (let start = 0; start < batch.length; ) {
      const at = start + LENGTH_BYTES;
      const end = at + batch.readUInt32BE(start);
      packet.parse(batch, at + this.#vnetBytes, end, true);
      this.#takePrimary(batch, start, nowUs);
      start = end;
    }
  }

  #takeAllSecondary(batch: Buffer, nowUs: number): void {
    const packet = this.#packet;
    for (let start = 0; start < batch.length; ) {
      const at = start + LENGTH_BYTES;
      const end = at + batch.readUInt32BE(start);
      packet.parse(batch, at + this.#vnetBytes, end, true);
      this.#takeSecondary(batch, start, nowUs);
      start = end;
    }
  }

  #takePrimary(batch: Buffer, start: number, nowUs: number): void {
    this.#counters.primaryFrames++;
    const flow = this.#flowOf(batch, this.#primaryFragments) ?? this.#overflow;
    const frame = this.#held.take(batch, start, this.#packet);
    frame.arrivalUs = nowUs;
    if (flow === this.#overflow && !this.#overflowing) this.#overflow.beginEpoch(this.#epoch);
    if (flow === this.#overflow) {
      this.#overflowing = true;
      flow.stopped = true;
      this.#reachBound('flows');
    }
    flow.appendPvm(frame);
    if (this.#running && !flow.stopped && flow.pvmHead === frame) {
      if (this.#judgeHead(flow) !== HOLD) return;
    }
    this.#sink.verdict?.('primary', batch, start, 'hold');
  }

  #takeSecondary(batch: Buffer, start: number, nowUs: number): void {
    this.#counters.secondaryFrames++;
    const flow = this.#flowOf(batch, this.#secondaryFragments);
    if (flow === undefined) this.#reachBound('flows');
    const limits = this.#limits;
    const ahead = this.#ahead;
    if (flow !== undefined && !flow.stopped && ahead.frames >= limits.aheadFramesMax) {
      flow.stopped = true;
      this.#reachBound('output of the secondary');
    }
    if (flow === undefined || flow.stopped) {
      this.#counters.droppedSecondaryFrames++;
      this.#sink.verdict?.('secondary', batch, start, 'dropped');
      return;
    }
    const frame = ahead.take(batch, start, this.#packet);
    frame.arrivalUs = nowUs;
    frame.flow = flow;
    const { tcp } = flow;
    if (tcp === undefined) {
      if (frame.kind === PACKET_OPAQUE) waitOpaque(flow, ahead, frame);
      else flow.appendSvm(frame);
    } else if (!this.#tcp.secondary(flow, tcp, frame)) {
      this.#stop(flow);
      this.#sink.verdict?.('secondary', batch, start, 'mismatch');
      return;
    }
    this.#sink.verdict?.('secondary', batch, start, 'taken');
    if (this.#running) {
      this.#judgeHeads(flow);
      if (tcp?.clamped === true && !flow.stopped) this.#offerWindow(flow);
    }
    if (ahead.bytes > limits.aheadBytesMax) {
      flow.stopped = true;
      this.#reachBound('output of the secondary');
    }
  }

  #judgeHeads(flow: Flow): void {
    while (!flow.stopped && flow.pvmHead !== undefined) {
      if (this.#judgeHead(flow) !== RELEASE) return;
    }
  }

  /** Judges the flow's first held frame and does what that says. */
  #judgeHead(flow: Flow): Judgement {
    const frame = flow.pvmHead as Frame;
    const { tcp } = flow;
    let judgement: Judgement;
    if (tcp !== undefined) judgement = this.#tcp.judge(flow, tcp, frame);
    else if (frame.kind === PACKET_OPAQUE) judgement = judgeOpaque(flow, this.#ahead);
    else judgement = judgeDatagram(flow, this.#ahead, this.#difference);
    if (judgement === RELEASE) {
      this.#release(flow, frame);
    } else if (judgement === MISMATCH) {
      this.#sink.verdict?.('primary', frame.batch, frame.start, 'mismatch');
      this.#stop(flow);
    } else if (tcp !== undefined) {
      this.#releasePart(tcp, frame);
    }
    return judgement;
  }

  /** What is confirmed of a super-frame that is not confirmed as a whole: see tcp-split.ts. */
  #releasePart(tcp: TcpState, frame: Frame): void {
    const bytes = confirmedSegmentBytes(frame, this.#vnetBytes);
    if (bytes === 0 || !isAckConfirmed(tcp, frame)) return;
    const first = this.#part;
    splitSegment(frame, bytes, first);
    this.#held.shortened(bytes);
    this.#settleReleased(tcp, first);
    this.#counters.splitFrames++;
    this.#counters.releasedBytes += bytes;
    this.#flush();
    this.#sink.release(first.batch, first.start, first.end);
    first.batch = NO_BATCH;
    first.flow = undefined;
  }

  /** The client is sent this frame: with no larger a window than both guests have. */
  #settleReleased(tcp: TcpState, frame: Frame): void {
    if (lowerWindow(tcp, frame, this.#vnetBytes)) {
      const frameAt = frame.start + LENGTH_BYTES + this.#vnetBytes;
      this.#scratch.parse(frame.batch, frameAt, frame.end, true);
      keepTemplate(tcp, frame, this.#scratch);
      this.#anyClamped = true;
      this.#counters.loweredWindows++;
    }
    this.#tcp.settle(tcp, frame, true);
  }

  #release(flow: Flow, frame: Frame): void {
    const { batch, start, end } = frame;
    const { tcp } = flow;
    if (tcp !== undefined && (frame.flags & TCP_RST) !== 0) {
      tcp.clamped = false;
    } else if (tcp !== undefined) {
      this.#settleReleased(tcp, frame);
    }
    this.#counters.releasedFrames++;
    this.#counters.releasedBytes += end - start;
    this.#sink.verdict?.('primary', batch, start, 'release');
    flow.shiftPvm();
    this.#held.free(frame);
    if (batch === this.#leaving && start === this.#leavingEnd) {
      this.#leavingEnd = end;
      return;
    }
    this.#flush();
    this.#leaving = batch;
    this.#leavingStart = start;
    this.#leavingEnd = end;
  }

  #flush(): void {
    const batch = this.#leaving;
    if (batch === NO_BATCH) return;
    this.#leaving = NO_BATCH;
    this.#sink.release(batch, this.#leavingStart, this.#leavingEnd);
  }

  /** The guests differ: nothing of the flow leaves before the checkpoint. */
  #stop(flow: Flow): void {
    flow.stopped = true;
    this.#counters.divergences++;
    if (this.#sink.mismatch !== undefined || !this.#asked.has('divergence')) {
      const mismatch = this.#difference.toMismatch(flow.key);
      this.#sink.mismatch?.(() => mismatch);
      this.#ask('divergence', mismatch);
    }
    this.#difference.clear();
  }

  #reachBound(what: string): void {
    if (this.#asked.has('bound')) return;
    this.#counters.bounds++;
    this.#difference.set('bound', 0, what);
    this.#ask('bound', this.#difference.toMismatch(undefined));
  }

  #ask(reason: CheckpointReason, mismatch: Mismatch): void {
    this.#difference.clear();
    if (this.#asked.has(reason)) return;
    this.#asked.add(reason);
    this.#sink.checkpoint(reason, () => mismatch);
  }

  /** True: it waits. No more do than frames are held, since each holds its flow's first. */
  #reportOpened(flow: Flow, opened: OpenedFlow): boolean {
    this.#counters.openedFlows++;
    if (this.#awaitsFlowsKnown) this.#unknownFlows.push(flow);
    this.#sink.opened(opened);
    return this.#awaitsFlowsKnown;
  }

  /** The flow of the packet just parsed, made if need be; undefined: there is no room for it. */
  #flowOf(batch: Buffer, fragments: FragmentMap): Flow | undefined {
    const packet = this.#packet;
    if (packet.kind === PACKET_FRAGMENT) {
      packet.key[2] = fragments.portsOf(batch, packet);
      if (packet.protocol === PROTOCOL_TCP) {
        packet.key[0] = (packet.key[0] as number) | FRAGMENTED_TCP;
      }
      packet.hash = hashKey(packet.key);
    }
    const found = this.#flows.find(packet.key, packet.hash);
    if (found !== undefined) {
      if (found.epoch !== this.#epoch) found.beginEpoch(this.#epoch);
      return found;
    }
    if (this.#overflowing) return undefined;
    const flow = this.#flows.create(packet.key, packet.hash, this.#epoch);
    if (flow === undefined) return undefined;
    prepareFlow(flow, packet.kind === PACKET_TCP, this.#epoch);
    if (flow.tcp !== undefined) flow.tcp.first = packet.seq;
    return flow;
  }

  #settleUnjudged(frame: Frame, remembers: boolean): void {
    const tcp = frame.flow?.tcp;
    if (tcp === undefined) return;
    this.#tcp.settleUnjudged(tcp, frame, remembers);
    if ((frame.flags & TCP_RST) === 0) tellWindow(tcp, frame);
    else tcp.clamped = false;
  }

  /** Forgets both sides' frames; flows forget what is of an epoch when they are next used. */
  #beginEpoch(): void {
    this.#epoch++;
    this.#running = false;
    this.#overflowing = false;
    this.#asked.clear();
    this.#knownFlows = 0;
    this.#unknownFlows = [];
    this.#held.clear();
    this.#ahead.clear();
    this.#difference.clear();
  }

  /** At a checkpoint the SVM gets the PVM's window: nothing bounds it any more. */
  #offerWindows(): void {
    this.#anyClamped = false;
    this.#flows.forEach((flow) => {
      if (flow.tcp?.clamped !== true) return;
      if (flow.epoch !== this.#epoch) flow.beginEpoch(this.#epoch);
      this.#offerWindow(flow);
      if (flow.tcp.clamped) this.#anyClamped = true;
    });
  }

  #offerWindow(flow: Flow): void {
    const { tcp } = flow;
    if (tcp === undefined) return;
    const window = windowToOffer(tcp);
    const batch = window < 0 ? undefined : makeWindowUpdate(tcp, window);
    if (batch === undefined) return;
    this.#counters.windowUpdates++;
    this.#flush();
    this.#sink.verdict?.('primary', batch, 0, 'made');
    this.#sink.release(batch, 0, batch.length);
  }

  /** What the oldest held frame waits for: its first byte not confirmed, and the SVM's there. */
  #describeWait(flow: Flow, frame: Frame): { offset: number; at: number; theirs?: Frame } {
    const { tcp } = flow;
    if (tcp === undefined) {
      const said = { offset: 0, at: frame.payloadAt };
      return flow.svmHead === undefined ? said : { ...said, theirs: flow.svmHead };
    }
    const seq = seqAdd(frame.payloadSeq, frame.confirmedBytes);
    const said = { offset: streamOffset(tcp, seq), at: frame.payloadAt + frame.confirmedBytes };
    const theirs = findSegment(tcp, seqAdd(seq, -tcp.delta));
    return theirs === undefined ? said : { ...said, theirs };
  }
}
