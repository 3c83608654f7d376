/**
 * The comparer on files instead of on a running pair: the same core, with the captures' own time.
 *
 * In: frames of each side, the epochs' edges. Out: a report. The comparer is started at each edge
 * that starts an epoch, and closed where one ends; what comes before the first is not compared,
 * since nobody knows what the guests had already said. Without edges the files are compared from
 * the first frame to the last, and then the clock runs on until nothing is waited for.
 */
import { assert } from '../../lib/index.js';
import { countFrames, LENGTH_BYTES } from '../batch-wire.js';
import {
  type CheckpointReason,
  Comparer,
  type ComparerSink,
  formatFlow,
  type Mismatch,
} from '../compare/index.js';
import { Packet } from '../packet.js';
import { CaptureMerge, type EpochEdge, type MergeStep } from './capture-merge.js';
import { FLOWS_COUNTED_MAX, MISMATCHES_KEPT_MAX } from './limits.js';
import type { CapturedFrame } from './pcap-wire.js';
import type { CaptureSide, FrameCounts } from './verdict-wire.js';

/** What is used of a comparer. */
export interface OfflineComparer {
  primary(batch: Buffer, nowUs: number): void;
  secondary(batch: Buffer, nowUs: number): void;
  inbound(batch: Buffer): void;
  start(nowUs: number): void;
  closeEpoch(): Buffer[];
  deadlineUs(): number | undefined;
  tick(nowUs: number): void;
}

/** A flow whose guests differ, or another reason for a checkpoint. */
export interface Finding {
  readonly reason: CheckpointReason;
  /** Since 1970. */
  readonly timeUs: number;
  /** Of the capture; undefined in files without edges. */
  readonly epoch: number | undefined;
  readonly mismatch: Mismatch;
}

/** What was not released of one flow. */
export type FlowCount = Readonly<MutableFlowCount>;

interface MutableFlowCount {
  readonly flow: string;
  mismatches: number;
  /** The PVM's, at the ends of epochs. */
  heldFrames: number;
}

export interface CompareReport {
  /** In the files. */
  readonly frames: FrameCounts;
  /** The PVM's frames that the SVM confirmed. */
  readonly releasedFrames: number;
  /** Frames of the comparer itself: a window that has grown. */
  readonly madeFrames: number;
  /** The PVM's frames that were still held when their epoch ended: they leave at its commit. */
  readonly heldFrames: number;
  /** Held when the files ended in the middle of an epoch: nobody knows what came next. */
  readonly undecidedFrames: number;
  /** Before the first edge of the capture. */
  readonly skippedFrames: number;
  /** When the first frame of all was captured; undefined without any. */
  readonly firstFrameUs: number | undefined;
  readonly epochs: number;
  readonly openedFlows: number;
  /** Flows that differed, each once an epoch; and epochs that a time-out or a bound would end. */
  readonly reasons: Readonly<Record<CheckpointReason, number>>;
  /** The first FLOWS_COUNTED_MAX flows of which something was not released. */
  readonly flows: readonly FlowCount[];
  /** The first MISMATCHES_KEPT_MAX. */
  readonly findings: readonly Finding[];
}

export interface OfflineCompareOptions {
  readonly compareTimeoutUs: number;
  /** Every frame is a batch of its own. */
  readonly split: boolean;
  /** In their order; none for files that were not captured by an agent. */
  readonly edges: readonly EpochEdge[];
  /** When the capture ended; undefined when it does not say so. */
  readonly endUs: number | undefined;
}

export class OfflineCompare {
  readonly #options: OfflineCompareOptions;
  readonly #merge: CaptureMerge;
  readonly #comparer: OfflineComparer;
  /** What comes before the first edge that starts an epoch is skipped. */
  readonly #waitsForEdge: boolean;
  readonly #reasons = { divergence: 0, timeout: 0, bound: 0 };
  readonly #findings: Finding[] = [];
  readonly #flows = new Map<string, MutableFlowCount>();
  readonly #packet = new Packet();
  #leftFrames = 0;
  #releasedFrames = 0;
  #heldFrames = 0;
  #undecidedFrames = 0;
  #skippedFrames = 0;
  #openedFlows = 0;
  #epochs = 0;
  #epoch: number | undefined;
  #firstFrameUs: number | undefined;
  #nowUs = 0;
  #comparing = false;
  #done = false;

  constructor(options: OfflineCompareOptions, make: (sink: ComparerSink) => OfflineComparer) {
    this.#options = options;
    this.#merge = new CaptureMerge(options);
    this.#waitsForEdge = options.edges.some(({ edge }) => edge === 'start');
    this.#comparer = make({
      release: (batch, start, end) => {
        this.#leftFrames += countFrames(batch.subarray(start, end));
      },
      verdict: (_side, _batch, _start, verdict) => {
        if (verdict === 'release') this.#releasedFrames += 1;
      },
      opened: () => {
        this.#openedFlows += 1;
      },
      mismatch: (explain) => this.#onFinding('divergence', explain),
      // Told by `mismatch`, for every flow.
      checkpoint: (reason, explain) => {
        if (reason !== 'divergence') this.#onFinding(reason, explain);
      },
    });
  }

  /** Goes as far as it can; gives the side that must be read on, undefined at the end. */
  run(): CaptureSide | undefined {
    for (;;) {
      const step = this.#merge.next();
      switch (step.kind) {
        case 'need':
          return step.side;
        case 'batch':
          this.#onBatch(step);
          break;
        case 'edge':
          this.#onEdge(step.edge);
          break;
        case 'done':
          this.#finish();
          return undefined;
      }
    }
  }

  /** Frames of the side that `run` asked for. Throws `ProtocolError`: see `CaptureMerge.push`. */
  push(side: CaptureSide, frames: readonly CapturedFrame[]): void {
    this.#merge.push(side, frames);
  }

  /** The file of this side is over. */
  end(side: CaptureSide): void {
    this.#merge.end(side);
  }

  /** After `run` has come to the end. */
  report(): CompareReport {
    assert(this.#done, 'The report is read before the end');
    return {
      frames: this.#merge.frames,
      releasedFrames: this.#releasedFrames,
      madeFrames: this.#leftFrames - this.#releasedFrames,
      heldFrames: this.#heldFrames,
      undecidedFrames: this.#undecidedFrames,
      skippedFrames: this.#skippedFrames,
      firstFrameUs: this.#firstFrameUs,
      epochs: this.#epochs,
      openedFlows: this.#openedFlows,
      reasons: this.#reasons,
      flows: Array.from(this.#flows.values()),
      findings: this.#findings,
    };
  }

  #onBatch({ side, batch, sinceUs, timeUs, frames }: Extract<MergeStep, { kind: 'batch' }>): void {
    this.#firstFrameUs ??= sinceUs;
    if (this.#epochs === 0) {
      if (this.#waitsForEdge) {
        this.#skippedFrames += frames;
        return;
      }
      this.#start(timeUs);
    }
    this.#runClock(timeUs);
    if (side === 'primary') this.#comparer.primary(batch, timeUs);
    else if (side === 'inbound') this.#comparer.inbound(batch);
    // Between two epochs the SVM has said its last word of the old one and none of the new.
    else if (this.#comparing) this.#comparer.secondary(batch, timeUs);
    else this.#skippedFrames += frames;
  }

  #onEdge({ edge, epoch, timeUs }: EpochEdge): void {
    if (this.#epochs > 0) this.#runClock(timeUs);
    if (edge === 'close') {
      if (this.#comparing) this.#heldFrames += this.#close();
      this.#comparing = false;
      return;
    }
    this.#epoch = epoch;
    this.#start(timeUs);
  }

  #start(timeUs: number): void {
    this.#epochs += 1;
    this.#nowUs = timeUs;
    this.#comparing = true;
    this.#comparer.start(timeUs);
  }

  #finish(): void {
    if (this.#done) return;
    this.#done = true;
    if (this.#epochs === 0) return;
    const { edges, endUs } = this.#options;
    if (edges.length > 0) {
      if (endUs !== undefined) this.#runClock(endUs);
      this.#undecidedFrames = this.#close();
    } else {
      // These files are all there is: what nobody has confirmed in time stays unconfirmed.
      this.#runClock(this.#nowUs + this.#options.compareTimeoutUs);
      this.#heldFrames += this.#close();
    }
  }

  /** Gives the number of frames that were held. */
  #close(): number {
    let frames = 0;
    for (const batch of this.#comparer.closeEpoch()) {
      for (let at = 0; at < batch.length; frames++) {
        const start = at + LENGTH_BYTES;
        at = start + batch.readUInt32BE(at);
        this.#packet.parse(batch, start, at, true);
        const count = this.#flowCount(formatFlow(this.#packet.key));
        if (count !== undefined) count.heldFrames += 1;
      }
    }
    return frames;
  }

  /** Tells the comparer of every moment up to `timeUs` at which it waits for one. */
  #runClock(timeUs: number): void {
    for (;;) {
      const deadlineUs = this.#comparer.deadlineUs();
      if (deadlineUs === undefined || deadlineUs > timeUs) break;
      this.#nowUs = Math.max(this.#nowUs, deadlineUs);
      this.#comparer.tick(this.#nowUs);
      if (this.#comparer.deadlineUs() === deadlineUs) break;
    }
    this.#nowUs = Math.max(this.#nowUs, timeUs);
  }

  #onFinding(reason: CheckpointReason, explain: () => Mismatch): void {
    this.#reasons[reason] += 1;
    const mismatch = explain();
    const count = mismatch.flow === '' ? undefined : this.#flowCount(mismatch.flow);
    if (count !== undefined) count.mismatches += 1;
    if (this.#findings.length >= MISMATCHES_KEPT_MAX) return;
    this.#findings.push({ reason, timeUs: this.#nowUs, epoch: this.#epoch, mismatch });
  }

  #flowCount(flow: string): MutableFlowCount | undefined {
    const known = this.#flows.get(flow);
    if (known !== undefined || this.#flows.size >= FLOWS_COUNTED_MAX) return known;
    const count = { flow, mismatches: 0, heldFrames: 0 };
    this.#flows.set(flow, count);
    return count;
  }
}

/** With the agent's own comparer. */
export function makeOfflineCompare(options: OfflineCompareOptions): OfflineCompare {
  const { compareTimeoutUs } = options;
  return new OfflineCompare(
    options,
    (sink) => new Comparer({ vnetBytes: 0, compareTimeoutUs }, sink),
  );
}
