/**
 * Puts the files of a capture back into one order: that of their time stamps, cut at the epochs'
 * edges. An edge names how many frames each file had, so frames before it come before it whatever
 * their clocks say.
 *
 * In: frames of each side as they are read, `end` when a file is over. Out: batches of one side
 * each, as the comparer takes them (be32 length + frame), and edges; or which side must be read
 * on first. Only what was pushed and not yet given out is held, and the time never runs backwards.
 */
import { ProtocolError } from '../../lib/index.js';
import { encodeBatch } from '../batch-wire.js';
import { FRAME_BYTES_MAX, VNET_HEADER_BYTES } from '../limits.js';
import { BATCH_BYTES_OFFLINE_MAX, BATCH_WINDOW_US } from './limits.js';
import { type CapturedFrame, LINKTYPE_ETHERNET } from './pcap-wire.js';
import type { CaptureEdge, CaptureSide, FrameCounts } from './verdict-wire.js';

/** A capture has no virtio_net_hdr. */
const ETHERNET_BYTES_MAX = FRAME_BYTES_MAX - VNET_HEADER_BYTES;

/** An edge of `verdicts.jsonl`. */
export interface EpochEdge {
  readonly edge: CaptureEdge;
  readonly epoch: number;
  readonly timeUs: number;
  readonly frames: FrameCounts;
}

/** What comes next. */
export type MergeStep =
  | {
      readonly kind: 'batch';
      readonly side: CaptureSide;
      readonly batch: Buffer;
      /** When the first of its frames was captured. */
      readonly sinceUs: number;
      /** When the last was, or later. */
      readonly timeUs: number;
      readonly frames: number;
      /** Number of its first frame in its file. */
      readonly firstFrame: number;
    }
  | { readonly kind: 'edge'; readonly edge: EpochEdge }
  /** Frames of this side must be pushed, or it must be ended. */
  | { readonly kind: 'need'; readonly side: CaptureSide }
  | { readonly kind: 'done'; readonly timeUs: number };

/** At equal times questions come before answers, and the PVM's before the SVM's. */
const SIDES: readonly CaptureSide[] = ['inbound', 'primary', 'secondary'];
const NO_LIMIT: FrameCounts = {
  primary: Number.POSITIVE_INFINITY,
  secondary: Number.POSITIVE_INFINITY,
  inbound: Number.POSITIVE_INFINITY,
};

interface Source {
  frames: readonly CapturedFrame[];
  index: number;
  ended: boolean;
  /** Frames given out so far. */
  given: number;
}

interface OpenBatch {
  readonly side: CaptureSide;
  readonly firstFrame: number;
  readonly sinceUs: number;
  readonly frames: Buffer[];
  bytes: number;
}

export class CaptureMerge {
  readonly #split: boolean;
  readonly #edges: readonly EpochEdge[];
  readonly #sources: Record<CaptureSide, Source> = {
    inbound: emptySource(),
    primary: emptySource(),
    secondary: emptySource(),
  };
  readonly #pushed = { primary: 0, secondary: 0, inbound: 0 };
  #edge = 0;
  #nowUs = 0;
  #open: OpenBatch | undefined;

  constructor(options: { readonly split: boolean; readonly edges: readonly EpochEdge[] }) {
    this.#split = options.split;
    this.#edges = options.edges;
  }

  /** Frames pushed so far. */
  get frames(): FrameCounts {
    return this.#pushed;
  }

  /**
   * The next frames of a side, asked for by `need`. They are kept until they are given out. Throws
   * `ProtocolError` for one that can't be compared.
   */
  push(side: CaptureSide, frames: readonly CapturedFrame[]): void {
    for (const frame of frames) {
      this.#pushed[side] += 1;
      checkFrame(frame, this.#pushed[side]);
    }
    const source = this.#sources[side];
    source.frames = [...source.frames.slice(source.index), ...frames];
    source.index = 0;
  }

  /** The file of this side is over. */
  end(side: CaptureSide): void {
    this.#sources[side].ended = true;
  }

  next(): MergeStep {
    for (;;) {
      for (const side of SIDES) {
        const { frames, index, ended } = this.#sources[side];
        if (index === frames.length && !ended) return { kind: 'need', side };
      }
      const side = this.#earliest();
      const open = this.#open;
      if (open !== undefined && !this.#joins(open, side)) return this.#close(open);
      if (side !== undefined) {
        this.#take(side);
        continue;
      }
      const edge = this.#edges[this.#edge];
      if (edge === undefined) return { kind: 'done', timeUs: this.#nowUs };
      this.#edge += 1;
      this.#nowUs = Math.max(this.#nowUs, edge.timeUs);
      return { kind: 'edge', edge: { ...edge, timeUs: this.#nowUs } };
    }
  }

  /** The side whose next frame is the first in time and lies before the next edge. */
  #earliest(): CaptureSide | undefined {
    const limit = this.#edges[this.#edge]?.frames ?? NO_LIMIT;
    let best: CaptureSide | undefined;
    let bestUs = Number.POSITIVE_INFINITY;
    for (const side of SIDES) {
      const { frames, index, given } = this.#sources[side];
      const frame = frames[index];
      if (frame === undefined || given >= limit[side] || frame.timeUs >= bestUs) continue;
      best = side;
      bestUs = frame.timeUs;
    }
    return best;
  }

  #joins(open: OpenBatch, side: CaptureSide | undefined): boolean {
    if (this.#split || side !== open.side) return false;
    const { frames, index } = this.#sources[side];
    const frame = frames[index] as CapturedFrame;
    return (
      frame.timeUs - open.sinceUs <= BATCH_WINDOW_US &&
      open.bytes + frame.bytes.length <= BATCH_BYTES_OFFLINE_MAX
    );
  }

  #take(side: CaptureSide): void {
    const source = this.#sources[side];
    const frame = source.frames[source.index] as CapturedFrame;
    source.index += 1;
    source.given += 1;
    this.#nowUs = Math.max(this.#nowUs, frame.timeUs);
    this.#open ??= { side, firstFrame: source.given, sinceUs: frame.timeUs, frames: [], bytes: 0 };
    this.#open.frames.push(frame.bytes);
    this.#open.bytes += frame.bytes.length;
  }

  #close(open: OpenBatch): MergeStep {
    this.#open = undefined;
    const { side, sinceUs, firstFrame } = open;
    const batch = encodeBatch(open.frames);
    const frames = open.frames.length;
    return { kind: 'batch', side, batch, sinceUs, timeUs: this.#nowUs, frames, firstFrame };
  }
}

function emptySource(): Source {
  return { frames: [], index: 0, ended: false, given: 0 };
}

function checkFrame({ linkType, bytes, lengthBytes }: CapturedFrame, number: number): void {
  if (linkType !== LINKTYPE_ETHERNET) {
    const expected = `expected ${LINKTYPE_ETHERNET}, Ethernet`;
    throw new ProtocolError(`Frame ${number} has link type ${linkType}, ${expected}`);
  }
  if (lengthBytes > bytes.length) {
    const advice = 'capture whole frames, with tcpdump -s 0';
    throw new ProtocolError(
      `Frame ${number} is cut to ${bytes.length} of ${lengthBytes} bytes; ${advice}`,
    );
  }
  if (bytes.length > ETHERNET_BYTES_MAX) {
    throw new ProtocolError(
      `Frame ${number} of ${bytes.length} bytes exceeds ${ETHERNET_BYTES_MAX}, the most a guest sends`,
    );
  }
}
