import test from 'ava';
import { countFrames, encodeBatch } from '../../../../src/proxy/batch-wire.js';
import type { EpochEdge } from '../../../../src/proxy/capture/capture-merge.js';
import {
  OfflineCompare,
  type OfflineComparer,
} from '../../../../src/proxy/capture/offline-compare.js';
import type { CapturedFrame } from '../../../../src/proxy/capture/pcap-wire.js';
import { CAPTURE_SIDES, type CaptureSide } from '../../../../src/proxy/capture/verdict-wire.js';
import type { ComparerSink } from '../../../../src/proxy/compare/index.js';

const TIMEOUT_US = 1_000;

/** Notes every call; releases and finds what a test tells it to. */
class FakeComparer implements OfflineComparer {
  readonly calls: string[] = [];
  deadline: number | undefined;
  held: Buffer[] = [];
  onCall: (call: string) => void = () => {};

  primary(batch: Buffer, nowUs: number): void {
    this.#note(`primary ${countFrames(batch)} ${nowUs}`);
  }
  secondary(batch: Buffer, nowUs: number): void {
    this.#note(`secondary ${countFrames(batch)} ${nowUs}`);
  }
  inbound(batch: Buffer): void {
    this.#note(`inbound ${countFrames(batch)}`);
  }
  start(nowUs: number): void {
    this.#note(`start ${nowUs}`);
  }
  closeEpoch(): Buffer[] {
    this.#note('close');
    return this.held;
  }
  deadlineUs(): number | undefined {
    return this.deadline;
  }
  tick(nowUs: number): void {
    this.deadline = undefined;
    this.#note(`tick ${nowUs}`);
  }

  #note(call: string): void {
    this.calls.push(call);
    this.onCall(call);
  }
}

function frame(timeUs: number): CapturedFrame {
  const bytes = Buffer.alloc(20);
  return { timeUs, linkType: 1, bytes, lengthBytes: bytes.length };
}

function compare(
  files: Partial<Record<CaptureSide, number[]>>,
  options: {
    edges?: EpochEdge[];
    endUs?: number;
    prepare?: (fake: FakeComparer, sink: ComparerSink) => void;
  } = {},
) {
  const fake = new FakeComparer();
  const { edges = [], prepare = () => {} } = options;
  const offline = new OfflineCompare(
    { compareTimeoutUs: TIMEOUT_US, split: true, edges, endUs: options.endUs },
    (sink) => {
      prepare(fake, sink);
      return fake;
    },
  );
  for (const side of CAPTURE_SIDES) {
    offline.push(side, (files[side] ?? []).map(frame));
    offline.end(side);
  }
  const needed = offline.run();
  if (needed !== undefined) throw new Error(`${needed} is asked for after its end`);
  return { calls: fake.calls, report: offline.report() };
}

function edge(kind: EpochEdge['edge'], epoch: number, timeUs: number, frames: number[]): EpochEdge {
  const [primary = 0, secondary = 0, inbound = 0] = frames;
  return { edge: kind, epoch, timeUs, frames: { primary, secondary, inbound } };
}

test('without edges the whole files are one epoch', (t) => {
  const files = { primary: [20, 30], secondary: [25], inbound: [10] };
  const { calls, report } = compare(files);
  t.deepEqual(calls, [
    ...['start 10', 'inbound 1', 'primary 1 20', 'secondary 1 25', 'primary 1 30', 'close'],
  ]);
  t.like(report, { frames: { primary: 2, secondary: 1, inbound: 1 }, epochs: 1, firstFrameUs: 10 });
});

test('the clock stops at every deadline on its way, and runs on at the end', (t) => {
  const { calls } = compare(
    { primary: [100, 900] },
    {
      prepare: (fake) => {
        fake.onCall = (call) => {
          if (call === 'primary 1 100') fake.deadline = 500;
          if (call === 'tick 500') fake.deadline = 600;
          if (call === 'primary 1 900') fake.deadline = 1900;
        };
      },
    },
  );
  t.deepEqual(calls, [
    ...[
      'start 100',
      'primary 1 100',
      'tick 500',
      'tick 600',
      'primary 1 900',
      'tick 1900',
      'close',
    ],
  ]);
});

test('a capture that says when it ended is waited for until then, and no longer', (t) => {
  const { calls } = compare(
    { primary: [100] },
    {
      edges: [edge('start', 1, 50, [])],
      endUs: 700,
      prepare: (fake) => {
        fake.onCall = (call) => {
          if (call === 'primary 1 100') fake.deadline = 700;
          if (call === 'tick 700') fake.deadline = 701;
        };
      },
    },
  );
  t.deepEqual(calls, ['start 50', 'primary 1 100', 'tick 700', 'close']);
});

test('a deadline that stays costs one tick, not an endless loop', (t) => {
  const { calls } = compare(
    { primary: [100, 900] },
    {
      prepare: (fake) => {
        fake.onCall = (call) => {
          if (call.startsWith('primary') || call.startsWith('tick')) fake.deadline = 50;
        };
      },
    },
  );
  t.is(calls.filter((call) => call.startsWith('tick')).length, 2);
});

test('edges close and start epochs, and what comes before the first is not compared', (t) => {
  const edges = [
    edge('close', 4, 12, [1, 1]),
    edge('start', 5, 14, [2, 1]),
    edge('close', 5, 30, [4, 3]),
    edge('start', 6, 34, [5, 3]),
  ];
  const files = { primary: [10, 13, 20, 22, 32, 40], secondary: [11, 21, 23, 41] };
  const held = [encodeBatch([Buffer.alloc(20), Buffer.alloc(20)])];
  const { calls, report } = compare(files, {
    edges,
    prepare: (fake) => {
      fake.held = held;
    },
  });
  t.deepEqual(calls, [
    ...['start 14', 'primary 1 20', 'secondary 1 21', 'primary 1 22', 'secondary 1 23', 'close'],
    ...['primary 1 32', 'start 34', 'primary 1 40', 'secondary 1 41', 'close'],
  ]);
  t.like(report, { epochs: 2, skippedFrames: 3, heldFrames: 2, undecidedFrames: 2 });
});

test('what the comparer says is counted and explained', (t) => {
  const batch = encodeBatch([Buffer.alloc(20), Buffer.alloc(30)]);
  const mismatch = {
    ...{ flow: 'tcp 1', kind: 'data' as const, offset: 7, note: '' },
    ...{ primary: Buffer.from('a'), secondary: Buffer.from('b') },
  };
  const { report } = compare(
    { primary: [10, 20], secondary: [15] },
    {
      edges: [edge('start', 3, 1, [])],
      prepare: (fake, sink) => {
        fake.onCall = (call) => {
          if (call === 'primary 1 10') {
            sink.verdict?.('primary', batch, 0, 'release');
            sink.verdict?.('primary', batch, 24, 'release');
            sink.release(batch, 0, batch.length);
          }
          // Without a verdict: the comparer's own.
          if (call === 'secondary 1 15') sink.release(batch, 24, batch.length);
          if (call === 'primary 1 20') {
            sink.mismatch?.(() => mismatch);
            sink.checkpoint('divergence', () => mismatch);
          }
        };
      },
    },
  );
  t.is(report.releasedFrames, 2);
  t.is(report.madeFrames, 1);
  t.deepEqual(report.flows, [{ flow: 'tcp 1', mismatches: 1, heldFrames: 0 }]);
  t.deepEqual(report.reasons, { divergence: 1, timeout: 0, bound: 0 });
  t.deepEqual(report.findings, [{ reason: 'divergence', timeUs: 20, epoch: 3, mismatch }]);
});

test('only so many mismatches are kept, all are counted', (t) => {
  const mismatch = {
    ...{ flow: 'tcp 1', kind: 'timeout' as const, offset: 0, note: '' },
    ...{ primary: Buffer.alloc(0), secondary: Buffer.alloc(0) },
  };
  const { report } = compare(
    { primary: Array.from({ length: 1_500 }, (_, index) => 10 + index) },
    {
      prepare: (fake, sink) => {
        fake.onCall = (call) => {
          if (!call.startsWith('primary')) return;
          sink.checkpoint('timeout', () => mismatch);
        };
      },
    },
  );
  t.is(report.reasons.timeout, 1_500);
  t.is(report.findings.length, 1_000);
  t.deepEqual(report.flows, [{ flow: 'tcp 1', mismatches: 1_500, heldFrames: 0 }]);
});

test('empty files give an empty report', (t) => {
  const { calls, report } = compare({});
  t.deepEqual(calls, []);
  t.like(report, { epochs: 0, firstFrameUs: undefined, releasedFrames: 0 });
});
