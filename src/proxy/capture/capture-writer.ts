/**
 * Turns what passes the comparer into the bytes of a capture's four files: primary.pcap,
 * secondary.pcap, inbound.pcap and verdicts.jsonl.
 *
 * In: batches of each side, verdicts on their frames, checkpoint edges, each with its time. Out:
 * bytes by file, from `take`, copied, so that no batch is kept. What is waiting to be written is
 * bounded: a batch that does not fit is left out whole and counted, and the data path goes on.
 *
 * Frames are numbered per file from 1. A verdict names its frame by batch and offset; batches are
 * told apart by identity, so one that is used again starts anew with `frame`.
 */
import { LENGTH_BYTES } from '../batch-wire.js';
import type { Verdict } from '../compare/index.js';
import { CAPTURE_BLOCK_BYTES, CAPTURE_QUEUE_BYTES_MAX } from './limits.js';
import { encodePcapHeader, PCAP_RECORD_HEADER_BYTES, writePcapRecordHeader } from './pcap-wire.js';
import {
  CAPTURE_SIDES,
  type CaptureEdge,
  type CaptureSide,
  type CaptureVerdict,
  type DroppedCounts,
  encodeVerdictLine,
  type FrameCounts,
} from './verdict-wire.js';

/** The file is read by people: a state, not a command. */
const VERDICT_WORDS: Readonly<Record<Verdict | 'made', CaptureVerdict>> = {
  release: 'released',
  hold: 'held',
  mismatch: 'mismatch',
  checkpoint: 'checkpoint',
  taken: 'taken',
  dropped: 'dropped',
  made: 'made',
};

/** What the data path calls while a capture is on. Nothing here blocks, waits or throws. */
export interface CaptureTap {
  /** A batch of whole frames, before the comparer sees it. It is copied. */
  frame(side: CaptureSide, batch: Buffer, nowUs: number): void;
  /** What became of the frame whose length field is at `start` of a batch: as the comparer says. */
  verdict(side: CaptureSide, batch: Buffer, start: number, verdict: Verdict | 'made'): void;
  /** Where the comparer's `closeEpoch` (of `epoch`) and `start` (of `epoch`) are called. */
  edge(edge: CaptureEdge, epoch: number, nowUs: number): void;
}

/** The four files; the first three are pcap. */
export const CAPTURE_FILES = [...CAPTURE_SIDES, 'verdicts'] as const;
export type CaptureFile = (typeof CAPTURE_FILES)[number];

/** The file's name in the folder of its capture. */
export function captureFileName(file: CaptureFile): string {
  return file === 'verdicts' ? 'verdicts.jsonl' : `${file}.pcap`;
}

export interface CaptureWriterOptions {
  /** Bytes in front of each Ethernet header; left out of the files. */
  readonly vnetBytes: number;
  readonly nic: number;
  /** The running epoch. */
  readonly epoch: number;
  readonly nowUs: number;
  /** What makes a time of the data path one since 1970. */
  readonly wallOffsetUs: number;
  /** Of all files together; then `full` is set and nothing more is taken. */
  readonly bytesMax: number;
  readonly queueBytesMax?: number;
}

export class CaptureWriter implements CaptureTap {
  readonly #options: CaptureWriterOptions;
  readonly #queueBytesMax: number;
  readonly #queues: Record<CaptureFile, ByteQueue>;
  readonly #frames = { primary: 0, secondary: 0, inbound: 0 };
  readonly #dropped = { primary: 0, secondary: 0, inbound: 0, verdicts: 0 };
  /** Number of the first frame of a batch, 0 when it was dropped. */
  readonly #firstFrames = new WeakMap<Buffer, number>();
  /** Where the last verdict lay: the next is usually behind it. */
  readonly #cursor: { batch: Buffer | undefined; at: number; index: number } = {
    batch: undefined,
    at: 0,
    index: 0,
  };
  #epoch: number;
  #nowUs: number;
  #queuedBytes = 0;
  #bytes = 0;
  #full = false;
  #ended = false;

  constructor(options: CaptureWriterOptions) {
    this.#options = options;
    this.#queueBytesMax = options.queueBytesMax ?? CAPTURE_QUEUE_BYTES_MAX;
    this.#epoch = options.epoch;
    this.#nowUs = options.nowUs;
    this.#queues = {
      primary: new ByteQueue(),
      secondary: new ByteQueue(),
      inbound: new ByteQueue(),
      verdicts: new ByteQueue(),
    };
    for (const side of CAPTURE_SIDES) this.#append(side, encodePcapHeader());
    const { nic, epoch } = options;
    this.#line({ kind: 'capture', version: 1, nic, epoch, timeUs: this.#wallUs });
  }

  /** `bytesMax` is reached. */
  get full(): boolean {
    return this.#full;
  }

  /** Frames taken so far. */
  get frames(): FrameCounts {
    return this.#frames;
  }

  /** What was left out for want of room. */
  get dropped(): DroppedCounts {
    return this.#dropped;
  }

  /** Of all files together, written or about to be. */
  get bytes(): number {
    return this.#bytes;
  }

  frame(side: CaptureSide, batch: Buffer, nowUs: number): void {
    this.#nowUs = nowUs;
    if (this.#full || this.#ended) return;
    this.#cursor.batch = undefined;
    const { bytes, frames } = this.#measure(batch);
    if (this.#bytes + bytes > this.#options.bytesMax) {
      this.#full = true;
      return;
    }
    if (this.#queuedBytes + bytes > this.#queueBytesMax) {
      this.#dropped[side] += frames;
      this.#firstFrames.set(batch, 0);
      return;
    }
    this.#firstFrames.set(batch, this.#frames[side] + 1);
    this.#frames[side] += frames;
    for (let at = 0; at < batch.length; ) at = this.#record(side, batch, at);
  }

  verdict(side: CaptureSide, batch: Buffer, start: number, verdict: Verdict | 'made'): void {
    if (this.#full || this.#ended) return;
    if (this.#queuedBytes >= this.#queueBytesMax) {
      this.#dropped.verdicts += 1;
      return;
    }
    const frame = this.#frameNumber(batch, start);
    this.#line({
      kind: 'frame',
      timeUs: this.#wallUs,
      side,
      frame,
      verdict: VERDICT_WORDS[verdict],
      epoch: this.#epoch,
    });
  }

  edge(edge: CaptureEdge, epoch: number, nowUs: number): void {
    this.#nowUs = nowUs;
    if (this.#full || this.#ended) return;
    this.#epoch = epoch;
    const frames = { ...this.#frames };
    this.#line({ kind: 'edge', timeUs: this.#wallUs, edge, epoch, frames });
  }

  /** The last line; nothing is taken any more. */
  end(reason: string, nowUs: number): void {
    this.#nowUs = nowUs;
    if (this.#ended) return;
    this.#ended = true;
    const frames = { ...this.#frames };
    const dropped = { ...this.#dropped };
    this.#line({ kind: 'end', timeUs: this.#wallUs, reason, frames, dropped });
  }

  /** What is to be appended to a file, in order; the caller says `written` when it is. */
  take(file: CaptureFile): Buffer[] {
    return this.#queues[file].take();
  }

  /** So many bytes that were taken need no memory any more. */
  written(bytes: number): void {
    this.#queuedBytes -= bytes;
  }

  get #wallUs(): number {
    return this.#nowUs + this.#options.wallOffsetUs;
  }

  #measure(batch: Buffer): { bytes: number; frames: number } {
    let frames = 0;
    let bytes = 0;
    for (let at = 0; at < batch.length; frames++) {
      const length = batch.readUInt32BE(at);
      bytes += PCAP_RECORD_HEADER_BYTES + Math.max(0, length - this.#options.vnetBytes);
      at += LENGTH_BYTES + length;
    }
    return { bytes, frames };
  }

  /** Gives the offset of the next frame. */
  #record(side: CaptureSide, batch: Buffer, at: number): number {
    const end = at + LENGTH_BYTES + batch.readUInt32BE(at);
    const from = Math.min(end, at + LENGTH_BYTES + this.#options.vnetBytes);
    const frameBytes = end - from;
    const bytes = PCAP_RECORD_HEADER_BYTES + frameBytes;
    const queue = this.#queues[side];
    const into = queue.reserve(bytes);
    writePcapRecordHeader(queue.block, into, { timeUs: this.#wallUs, frameBytes });
    batch.copy(queue.block, into + PCAP_RECORD_HEADER_BYTES, from, end);
    this.#count(bytes);
    return end;
  }

  #frameNumber(batch: Buffer, start: number): number | null {
    const first = this.#firstFrames.get(batch) ?? 0;
    if (first === 0) return null;
    const cursor = this.#cursor;
    if (cursor.batch !== batch || cursor.at > start) {
      cursor.batch = batch;
      cursor.at = 0;
      cursor.index = 0;
    }
    while (cursor.at < start) {
      cursor.at += LENGTH_BYTES + batch.readUInt32BE(cursor.at);
      cursor.index++;
    }
    return first + cursor.index;
  }

  #line(line: Parameters<typeof encodeVerdictLine>[0]): void {
    this.#append('verdicts', Buffer.from(encodeVerdictLine(line)));
  }

  #append(file: CaptureFile, bytes: Buffer): void {
    const queue = this.#queues[file];
    const into = queue.reserve(bytes.length);
    queue.block.set(bytes, into);
    this.#count(bytes.length);
  }

  #count(bytes: number): void {
    this.#queuedBytes += bytes;
    this.#bytes += bytes;
  }
}

/** Bytes in the order in which they were reserved, in blocks, so that frames cost no allocation. */
class ByteQueue {
  block: Buffer = Buffer.alloc(0);
  /** What of the block has been taken, and what has been filled. */
  #takenBytes = 0;
  #filledBytes = 0;
  #whole: Buffer[] = [];

  /** Makes room in `block` and gives its offset; the caller fills it before anything else. */
  reserve(bytes: number): number {
    if (this.#filledBytes + bytes > this.block.length) {
      this.#cutOff();
      this.block = Buffer.allocUnsafe(Math.max(bytes, CAPTURE_BLOCK_BYTES));
      this.#takenBytes = 0;
      this.#filledBytes = 0;
    }
    const at = this.#filledBytes;
    this.#filledBytes += bytes;
    return at;
  }

  take(): Buffer[] {
    this.#cutOff();
    const taken = this.#whole;
    this.#whole = [];
    return taken;
  }

  #cutOff(): void {
    if (this.#filledBytes === this.#takenBytes) return;
    this.#whole.push(this.block.subarray(this.#takenBytes, this.#filledBytes));
    this.#takenBytes = this.#filledBytes;
  }
}
