/**
 * A comparer with two guests that say what a test tells them, and a record of everything that it
 * does. Time stands still unless the test moves it.
 */
import {
  Comparer,
  type ComparerOptions,
  encodeBatch,
  forEachFrame,
  formatMismatch,
  type Mismatch,
  type OpenedFlow,
} from '../../src/proxy/index.js';
import { FLOW_V4, type Flow, type Segment, tcpFrame } from './packets.js';

export const COMPARE_TIMEOUT_US = 200_000;

export interface PairOptions extends Partial<ComparerOptions> {
  readonly flow?: Flow;
  /** The SVM does not run yet. */
  readonly stopped?: boolean;
}

export class ComparerPair {
  readonly comparer: Comparer;
  readonly flow: Flow;
  readonly opened: OpenedFlow[] = [];
  /** Reasons of the checkpoints asked for. */
  readonly asked: string[] = [];
  readonly mismatches: Mismatch[] = [];
  readonly explained: Mismatch[] = [];
  readonly verdicts: string[] = [];
  nowUs = 1_000_000;
  #left: Buffer[] = [];

  constructor({ flow = FLOW_V4, stopped = false, ...options }: PairOptions = {}) {
    this.flow = flow;
    this.comparer = new Comparer(
      { vnetBytes: flow.vnetBytes, compareTimeoutUs: COMPARE_TIMEOUT_US, ...options },
      {
        release: (batch, start, end) => {
          forEachFrame(batch.subarray(start, end), (frame) => this.#left.push(Buffer.from(frame)));
        },
        opened: (opened) => this.opened.push(opened),
        checkpoint: (reason, explain) => {
          this.asked.push(reason);
          this.explained.push(explain());
        },
        mismatch: (explain) => this.mismatches.push(explain()),
        verdict: (side, _batch, _start, verdict) => this.verdicts.push(`${side} ${verdict}`),
      },
    );
    if (!stopped) this.comparer.start(this.nowUs);
  }

  /** Frames, or segments of the pair's flow, that the PVM sends in one batch. */
  pvm(...said: readonly (Buffer | Segment)[]): void {
    this.comparer.primary(this.#batch(said), this.nowUs);
  }

  svm(...said: readonly (Buffer | Segment)[]): void {
    this.comparer.secondary(this.#batch(said), this.nowUs);
  }

  /** What left since the last look. */
  left(): Buffer[] {
    const left = this.#left;
    this.#left = [];
    return left;
  }

  /** Ends the epoch; gives the frames that leave with the checkpoint. The next one begins. */
  checkpoint(): Buffer[] {
    const frames: Buffer[] = [];
    for (const batch of this.comparer.closeEpoch()) {
      forEachFrame(batch, (frame) => frames.push(Buffer.from(frame)));
    }
    this.comparer.start(this.nowUs);
    return frames;
  }

  /** For messages of failed tests. */
  describe(): string {
    return [...this.asked, ...this.mismatches.map(formatMismatch)].join('; ');
  }

  frame(segment: Segment): Buffer {
    return tcpFrame(this.flow, true, segment);
  }

  #batch(said: readonly (Buffer | Segment)[]): Buffer {
    return encodeBatch(said.map((item) => (Buffer.isBuffer(item) ? item : this.frame(item))));
  }
}
