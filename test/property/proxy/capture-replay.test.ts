/**
 * What a capture of a running pair says offline is what was said live: the same comparer, driven by
 * the agent's calls and captured by the tap, then by the capture's files.
 */
import test from 'ava';
import fc from 'fast-check';
import { encodeBatch } from '../../../src/proxy/batch-wire.js';
import { CaptureFileDecoder } from '../../../src/proxy/capture/capture-decoder.js';
import type { EpochEdge } from '../../../src/proxy/capture/capture-merge.js';
import {
  CAPTURE_FILES,
  type CaptureFile,
  CaptureWriter,
} from '../../../src/proxy/capture/capture-writer.js';
import { makeOfflineCompare } from '../../../src/proxy/capture/offline-compare.js';
import { CAPTURE_SIDES, decodeVerdictLine } from '../../../src/proxy/capture/verdict-wire.js';
import { Comparer, type Mismatch } from '../../../src/proxy/compare/index.js';
import { ACK, FLOW_V4, PSH, tcpFrame } from '../../support/packets.js';

const TIMEOUT_US = 20_000;
const VNET_BYTES = 10;

/** What happens next to a pair. */
type Event =
  | { readonly kind: 'say'; readonly flow: number; readonly text: string; readonly wrong: boolean }
  /** The SVM says what it has not yet said, up to so many pieces. */
  | { readonly kind: 'follow'; readonly pieces: number }
  | { readonly kind: 'wait'; readonly us: number }
  | { readonly kind: 'checkpoint' };

const event: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('say' as const),
      flow: fc.nat({ max: 3 }),
      text: fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme-ascii' }),
      wrong: fc.nat({ max: 5 }).map((dice) => dice === 0),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('follow' as const),
      pieces: fc.integer({ min: 1, max: 5 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('wait' as const),
      us: fc.nat({ max: 30_000 }),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: 'checkpoint' as const }) },
);

interface Said {
  readonly released: number;
  readonly held: number;
  readonly undecided: number;
  readonly mismatches: readonly Mismatch[];
  readonly timeouts: number;
}

/** Runs the pair, with a tap wherever the agent has one. */
function runLive(events: readonly Event[]): { said: Said; files: Record<CaptureFile, Buffer> } {
  let nowUs = 5_000_000;
  let epoch = 7;
  const mismatches: Mismatch[] = [];
  let timeouts = 0;
  const writer = new CaptureWriter({
    ...{ vnetBytes: VNET_BYTES, nic: 0, epoch, nowUs, bytesMax: 1 << 30 },
    wallOffsetUs: 1_700_000_000_000_000,
  });
  const comparer = new Comparer(
    { vnetBytes: VNET_BYTES, compareTimeoutUs: TIMEOUT_US },
    {
      release: () => {},
      opened: () => {},
      mismatch: (explain) => mismatches.push(explain()),
      checkpoint: (reason) => {
        if (reason === 'timeout') timeouts += 1;
      },
      verdict: (side, batch, start, verdict) => writer.verdict(side, batch, start, verdict),
    },
  );
  const seqs = [100, 0xffff_fff0, 5, 77];
  let unsaid: Buffer[] = [];
  let held = 0;
  const advance = (us: number): void => {
    const untilUs = nowUs + us;
    for (;;) {
      const deadlineUs = comparer.deadlineUs();
      if (deadlineUs === undefined || deadlineUs > untilUs) break;
      comparer.tick(deadlineUs);
    }
    nowUs = untilUs;
  };
  const start = (): void => {
    comparer.start(nowUs);
    writer.edge('start', epoch, nowUs);
  };
  const close = (): number => {
    let frames = 0;
    for (const batch of comparer.closeEpoch()) {
      for (let at = 0; at < batch.length; frames++) at += 4 + batch.readUInt32BE(at);
    }
    return frames;
  };
  const follow = (pieces: number): void => {
    for (const batch of unsaid.splice(0, pieces)) {
      advance(7);
      writer.frame('secondary', batch, nowUs);
      comparer.secondary(batch, nowUs);
    }
  };
  start();
  for (const next of events) {
    advance(11);
    switch (next.kind) {
      case 'say': {
        const { flow, text, wrong } = next;
        const seq = seqs[flow] as number;
        const both = [text, wrong ? `${text.slice(0, -1)}\u0001` : text].map((said) =>
          encodeBatch([segment(flow, seq, said)]),
        );
        seqs[flow] = (seq + text.length) >>> 0;
        unsaid.push(both[1] as Buffer);
        writer.frame('primary', both[0] as Buffer, nowUs);
        comparer.primary(both[0] as Buffer, nowUs);
        break;
      }
      case 'follow':
        follow(next.pieces);
        break;
      case 'wait':
        advance(next.us);
        break;
      case 'checkpoint':
        held += close();
        writer.edge('close', epoch, nowUs);
        unsaid = [];
        epoch += 1;
        advance(500);
        start();
        break;
    }
  }
  const released = comparer.counters.releasedFrames;
  const undecided = close();
  writer.end('stop', nowUs);
  const files = {} as Record<CaptureFile, Buffer>;
  for (const file of CAPTURE_FILES) files[file] = Buffer.concat(writer.take(file));
  return { said: { released, held, undecided, mismatches, timeouts }, files };
}

function runOffline(files: Record<CaptureFile, Buffer>, split: boolean): Said {
  const lines = files.verdicts.toString().trimEnd().split('\n').map(decodeVerdictLine);
  const edges: EpochEdge[] = lines.filter((line) => line.kind === 'edge');
  const endUs = lines.find((line) => line.kind === 'end')?.timeUs;
  const compare = makeOfflineCompare({ compareTimeoutUs: TIMEOUT_US, split, edges, endUs });
  for (const side of CAPTURE_SIDES) {
    const decoder = new CaptureFileDecoder();
    compare.push(side, decoder.write(files[side]));
    decoder.end();
    compare.end(side);
  }
  compare.run();
  const report = compare.report();
  return {
    released: report.releasedFrames,
    held: report.heldFrames,
    undecided: report.undecidedFrames,
    mismatches: report.findings
      .filter(({ reason }) => reason === 'divergence')
      .map(({ mismatch }) => mismatch),
    timeouts: report.reasons.timeout,
  };
}

function segment(flow: number, seq: number, text: string): Buffer {
  const place = { ...FLOW_V4, remotePort: 4_000 + flow, vnetBytes: VNET_BYTES };
  return tcpFrame(place, true, { seq, ack: 1, flags: PSH | ACK, payload: Buffer.from(text) });
}

test('a capture says offline what was said live', (t) => {
  const seen = { mismatches: 0, timeouts: 0, held: 0, released: 0 };
  fc.assert(
    fc.property(fc.array(event, { maxLength: 80 }), (events) => {
      const { said, files } = runLive(events);
      t.deepEqual(runOffline(files, true), said);
      // A batch is as late as its last frame, so only the time-outs may be others.
      t.deepEqual({ ...runOffline(files, false), timeouts: said.timeouts }, said);
      seen.mismatches += said.mismatches.length;
      seen.timeouts += said.timeouts;
      seen.held += said.held;
      seen.released += said.released;
    }),
    { numRuns: 100 },
  );
  // The runs were not all alike.
  for (const [what, count] of Object.entries(seen)) t.true(count > 0, `${what}: ${count}`);
});

test('each captured frame of the PVM has its verdicts', (t) => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 80 }), (events) => {
      const { said, files } = runLive(events);
      const lines = files.verdicts.toString().trimEnd().split('\n').map(decodeVerdictLine);
      const last = new Map<number | null, string>();
      for (const line of lines) {
        if (line.kind === 'frame' && line.side === 'primary') last.set(line.frame, line.verdict);
      }
      const counted = (verdict: string): number =>
        Array.from(last.values()).filter((found) => found === verdict).length;
      t.is(counted('released'), said.released);
      t.is(counted('checkpoint'), said.held + said.undecided);
      t.is(last.size, said.released + said.held + said.undecided);
    }),
  );
});
