import test from 'ava';
import { ProtocolError } from '../../../../src/lib/index.js';
import { forEachFrame } from '../../../../src/proxy/batch-wire.js';
import {
  CaptureMerge,
  type EpochEdge,
  type MergeStep,
} from '../../../../src/proxy/capture/capture-merge.js';
import type { CapturedFrame } from '../../../../src/proxy/capture/pcap-wire.js';
import type { CaptureSide } from '../../../../src/proxy/capture/verdict-wire.js';

type Files = Partial<Record<CaptureSide, readonly number[]>>;

/** A frame whose bytes tell its time. */
function frame(timeUs: number): CapturedFrame {
  const bytes = Buffer.from(`frame at ${timeUs}`);
  return { timeUs, linkType: 1, bytes, lengthBytes: bytes.length };
}

function edge(kind: EpochEdge['edge'], timeUs: number, frames: number[]): EpochEdge {
  const [primary = 0, secondary = 0, inbound = 0] = frames;
  return { edge: kind, epoch: 1, timeUs, frames: { primary, secondary, inbound } };
}

/** Everything that comes out, with `perPush` frames pushed at a time. */
function merge(
  files: Files,
  options: { split?: boolean; edges?: EpochEdge[]; perPush?: number } = {},
): MergeStep[] {
  const { split = false, edges = [], perPush = 1 } = options;
  const machine = new CaptureMerge({ split, edges });
  const rest: Record<CaptureSide, number[]> = {
    primary: [...(files.primary ?? [])],
    secondary: [...(files.secondary ?? [])],
    inbound: [...(files.inbound ?? [])],
  };
  const steps: MergeStep[] = [];
  for (;;) {
    const step = machine.next();
    if (step.kind === 'need') {
      const some = rest[step.side].splice(0, perPush);
      if (some.length === 0) machine.end(step.side);
      else machine.push(step.side, some.map(frame));
      continue;
    }
    steps.push(step);
    if (step.kind === 'done') return steps;
  }
}

/** As `primary 5 6` and `close`. */
function texts(steps: readonly MergeStep[]): string[] {
  return steps.map((step) => {
    if (step.kind === 'edge') return step.edge.edge;
    if (step.kind !== 'batch') return step.kind;
    const times: string[] = [];
    forEachFrame(step.batch, (bytes) => times.push(bytes.toString().slice('frame at '.length)));
    return `${step.side} ${times.join(' ')}`;
  });
}

test('frames come in the order of their times, questions first', (t) => {
  const files = { primary: [10, 30, 40], secondary: [10, 20, 40], inbound: [10, 40] };
  t.deepEqual(texts(merge(files)), [
    ...['inbound 10', 'primary 10', 'secondary 10 20'],
    ...['primary 30', 'inbound 40', 'primary 40', 'secondary 40', 'done'],
  ]);
});

test('the result does not depend on how much is read at once', (t) => {
  const files = { primary: [1, 2, 3, 9, 9, 9], secondary: [2, 2, 3, 10], inbound: [0, 5] };
  const once = merge(files, { perPush: 100 });
  for (const perPush of [1, 2, 3]) t.deepEqual(merge(files, { perPush }), once);
});

test('frames of one side within a millisecond make one batch, unless split', (t) => {
  const files = { primary: [0, 500, 1000, 1001, 5000] };
  t.deepEqual(texts(merge(files)), ['primary 0 500 1000', 'primary 1001', 'primary 5000', 'done']);
  t.deepEqual(texts(merge(files, { split: true })).length, 6);
});

test('a batch tells its place in its file and its times', (t) => {
  const [first, second] = merge({ primary: [7, 8, 5000] });
  t.like(first, { sinceUs: 7, timeUs: 8, frames: 2, firstFrame: 1 });
  t.like(second, { sinceUs: 5000, timeUs: 5000, frames: 1, firstFrame: 3 });
});

test('time never runs backwards', (t) => {
  const steps = merge({ primary: [100, 50, 70], secondary: [60, 200] });
  const times = steps.flatMap((step) => (step.kind === 'batch' ? [step.timeUs] : []));
  t.deepEqual(
    times,
    [...times].sort((a, b) => a - b),
  );
  t.is(times.at(-1), 200);
});

test('an edge stands where its counts say, whatever the clocks say', (t) => {
  const edges = [edge('close', 15, [2, 1, 0]), edge('start', 16, [3, 1, 1])];
  const files = { primary: [10, 99, 17, 18], secondary: [1, 2], inbound: [3, 4] };
  t.deepEqual(texts(merge(files, { edges })), [
    ...['secondary 1', 'primary 10 99', 'close', 'inbound 3', 'primary 17', 'start'],
    ...['secondary 2', 'inbound 4', 'primary 18', 'done'],
  ]);
});

test('an edge behind the end of cut files comes at the end', (t) => {
  const edges = [edge('close', 50, [100, 100, 100])];
  const steps = merge({ primary: [10] }, { edges });
  t.deepEqual(texts(steps), ['primary 10', 'close', 'done']);
  t.like(steps.at(-1), { timeUs: 50 });
});

test('empty files are done at once', (t) => {
  t.deepEqual(texts(merge({})), ['done']);
});

test('frames that cannot be compared are refused by number', (t) => {
  const refused = (message: RegExp, wrong: Partial<CapturedFrame>): void => {
    const machine = new CaptureMerge({ split: false, edges: [] });
    const push = (): void => machine.push('primary', [frame(1), { ...frame(2), ...wrong }]);
    t.throws(push, { instanceOf: ProtocolError, message });
  };
  refused(/^Frame 2 has link type 113, expected 1, Ethernet$/, { linkType: 113 });
  refused(/^Frame 2 is cut to 10 of 99 bytes; .*tcpdump -s 0$/, { lengthBytes: 99 });
  refused(/^Frame 2 of 65558 bytes exceeds 65557/, { bytes: Buffer.alloc(65_558) });
});
