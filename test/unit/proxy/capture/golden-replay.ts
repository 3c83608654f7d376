/**
 * Captures of a real pair (test/golden/captures), and the comparer run on them in other orders than
 * the one in which they were captured.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { LENGTH_BYTES } from '../../../../src/proxy/batch-wire.js';
import {
  CaptureMerge,
  type EpochEdge,
  type MergeStep,
} from '../../../../src/proxy/capture/capture-merge.js';
import { captureFileName } from '../../../../src/proxy/capture/capture-writer.js';
import { type CapturedFrame, PcapDecoder } from '../../../../src/proxy/capture/pcap-wire.js';
import {
  CAPTURE_SIDES,
  type CaptureSide,
  decodeVerdictLine,
  type VerdictLine,
} from '../../../../src/proxy/capture/verdict-wire.js';
import { Comparer, type Mismatch } from '../../../../src/proxy/compare/index.js';
import { goldenPath } from '../../../support/golden.js';

export interface GoldenCapture {
  readonly frames: Readonly<Record<CaptureSide, readonly CapturedFrame[]>>;
  readonly lines: readonly VerdictLine[];
  readonly edges: readonly EpochEdge[];
  readonly endUs: number | undefined;
}

/** How the batches of an epoch follow each other: as captured, or one guest after the other. */
export type Order = 'captured' | 'primary first' | 'secondary first';
export const ORDERS: readonly Order[] = ['captured', 'primary first', 'secondary first'];

/** What the comparer did with the PVM's frames, by their number in the file. */
export interface Replayed {
  readonly released: readonly number[];
  /** Given back at the ends of epochs. */
  readonly checkpoint: readonly number[];
  readonly mismatches: readonly Mismatch[];
  /** Everything that may leave before a checkpoint. */
  readonly left: readonly Buffer[];
}

type BatchStep = Extract<MergeStep, { kind: 'batch' }>;

export function captureNames(): string[] {
  return readdirSync(goldenPath('captures')).sort();
}

export function readCapture(name: string): GoldenCapture {
  const read = (file: 'verdicts' | CaptureSide) =>
    readFileSync(goldenPath(`captures/${name}/${captureFileName(file)}`));
  const frames = { primary: [], secondary: [], inbound: [] } as Record<
    CaptureSide,
    CapturedFrame[]
  >;
  for (const side of CAPTURE_SIDES) {
    const decoder = new PcapDecoder();
    frames[side] = decoder.write(read(side));
    decoder.end();
  }
  const texts = read('verdicts').toString().split('\n').filter(Boolean);
  const lines = texts.map(decodeVerdictLine);
  const edges = lines.filter((line) => line.kind === 'edge');
  const endUs = lines.find((line) => line.kind === 'end')?.timeUs;
  return { frames, lines, edges, endUs };
}

/** How many of the PVM's frames come before the first epoch that was captured from its start. */
export function skippedFrames(capture: GoldenCapture): number {
  return capture.edges.find(({ edge }) => edge === 'start')?.frames.primary ?? 0;
}

/** What was said of the PVM's frames while they were captured: the numbers of those. */
export function saidLive(capture: GoldenCapture, verdict: 'released' | 'mismatch'): number[] {
  const skipped = skippedFrames(capture);
  return capture.lines.flatMap((line) => {
    if (line.kind !== 'frame' || line.side !== 'primary' || line.verdict !== verdict) return [];
    return line.frame !== null && line.frame > skipped ? [line.frame] : [];
  });
}

/** Without a clock: nothing is late here, however the batches are put. */
export function replay(
  capture: GoldenCapture,
  options: { split: boolean; order: Order },
): Replayed {
  const released: number[] = [];
  const checkpoint: number[] = [];
  const mismatches: Mismatch[] = [];
  const left: Buffer[] = [];
  const firstFrames = new Map<Buffer, number>();
  const comparer = new Comparer(
    { vnetBytes: 0, compareTimeoutUs: 1 },
    {
      release: (batch, start, end) => left.push(Buffer.from(batch.subarray(start, end))),
      opened: () => {},
      checkpoint: () => {},
      mismatch: (explain) => mismatches.push(explain()),
      verdict: (side, batch, start, verdict) => {
        if (side !== 'primary') return;
        const number = (firstFrames.get(batch) ?? Number.NaN) + indexAt(batch, start);
        if (verdict === 'release') released.push(number);
        if (verdict === 'checkpoint') checkpoint.push(number);
      },
    },
  );
  for (const { edge, batches } of epochsOf(capture, options.split)) {
    if (edge.edge === 'close') comparer.closeEpoch();
    else comparer.start(edge.timeUs);
    // Behind an epoch's end there is nothing of the SVM.
    for (const step of edge.edge === 'close' ? batches : ordered(batches, options.order)) {
      firstFrames.set(step.batch, step.firstFrame);
      if (step.side === 'inbound') comparer.inbound(step.batch);
      else if (step.side === 'primary') comparer.primary(step.batch, step.timeUs);
      else if (edge.edge === 'start') comparer.secondary(step.batch, step.timeUs);
    }
  }
  comparer.closeEpoch();
  return { released, checkpoint, mismatches, left };
}

/** From the first edge that starts an epoch: each edge with what follows it. */
function epochsOf(
  capture: GoldenCapture,
  split: boolean,
): { edge: EpochEdge; batches: BatchStep[] }[] {
  const merge = new CaptureMerge({ split, edges: capture.edges });
  for (const side of CAPTURE_SIDES) {
    merge.push(side, capture.frames[side]);
    merge.end(side);
  }
  const epochs: { edge: EpochEdge; batches: BatchStep[] }[] = [];
  for (let step = merge.next(); step.kind !== 'done'; step = merge.next()) {
    if (step.kind === 'need') throw new Error(`${step.side} is asked for after its end`);
    if (step.kind === 'batch') epochs.at(-1)?.batches.push(step);
    else if (epochs.length > 0 || step.edge.edge === 'start') {
      epochs.push({ edge: step.edge, batches: [] });
    }
  }
  return epochs;
}

function ordered(batches: readonly BatchStep[], order: Order): readonly BatchStep[] {
  if (order === 'captured') return batches;
  const [first, last] =
    order === 'primary first'
      ? (['primary', 'secondary'] as const)
      : (['secondary', 'primary'] as const);
  return (['inbound', first, last] as const).flatMap((side) =>
    batches.filter((step) => step.side === side),
  );
}

/** How many frames of the batch lie before `start`. */
function indexAt(batch: Buffer, start: number): number {
  let index = 0;
  for (let at = 0; at < start; index++) at += LENGTH_BYTES + batch.readUInt32BE(at);
  return index;
}
