import test from 'ava';
import {
  makeOfflineCompare,
  type OfflineCompareOptions,
} from '../../../../src/proxy/capture/offline-compare.js';
import { CAPTURE_SIDES } from '../../../../src/proxy/capture/verdict-wire.js';
import type { MismatchKind } from '../../../../src/proxy/compare/index.js';
import {
  captureNames,
  type GoldenCapture,
  ORDERS,
  readCapture,
  replay,
  saidLive,
  skippedFrames,
} from './golden-replay.js';

const COMPARE_TIMEOUT_US = 100_000;

const SPLITS = [
  { split: false, how: 'whole' },
  { split: true, how: 'split at every frame' },
];
/** Captures of guests that differ, and in what. */
const DIVERGING: Readonly<Record<string, MismatchKind>> = {
  'random-diverges': 'datagram',
  'ssh-diverges': 'data',
};
const AGREEING = ['dns', 'fragments', 'ipv6', 'nginx', 'ping', 'redis', 'tls'] as const;

function offline(capture: GoldenCapture, options: Pick<OfflineCompareOptions, 'split'>) {
  const { edges, endUs } = capture;
  const compare = makeOfflineCompare({
    compareTimeoutUs: COMPARE_TIMEOUT_US,
    edges,
    endUs,
    ...options,
  });
  for (const side of CAPTURE_SIDES) {
    compare.push(side, capture.frames[side]);
    compare.end(side);
  }
  if (compare.run() !== undefined) throw new Error('A side is asked for after its end');
  return compare.report();
}

/** The PVM's frames that a replay must account for. */
function numbersOf(capture: GoldenCapture): number[] {
  const skipped = skippedFrames(capture);
  const count = capture.frames.primary.length - skipped;
  return Array.from({ length: count }, (_, index) => skipped + 1 + index);
}

function sorted(numbers: readonly number[]): number[] {
  return [...numbers].sort((a, b) => a - b);
}

test('every capture is read by a test, is whole, and has something to compare', (t) => {
  t.deepEqual(captureNames(), [...AGREEING, ...Object.keys(DIVERGING)].sort());
  for (const name of captureNames()) {
    const capture = readCapture(name);
    const end = capture.lines.at(-1);
    t.deepEqual(end?.kind === 'end' ? end.dropped : undefined, {
      ...{ primary: 0, secondary: 0, inbound: 0, verdicts: 0 },
    });
    t.true(saidLive(capture, 'released').length > 0, name);
    t.true(capture.frames.inbound.length > 0, name);
  }
});

for (const name of AGREEING) {
  for (const { split, how } of SPLITS) {
    test(`${name}, ${how}: guests that agreed live agree offline`, (t) => {
      const capture = readCapture(name);
      const report = offline(capture, { split });
      t.is(report.reasons.divergence, 0);
      t.is(report.reasons.bound, 0);
      t.true(report.releasedFrames >= saidLive(capture, 'released').length);
    });

    for (const order of ORDERS) {
      test(`${name}, ${how}, ${order}: what was released live is released`, (t) => {
        const capture = readCapture(name);
        const { released, checkpoint, mismatches } = replay(capture, { split, order });
        t.deepEqual(mismatches, []);
        const missing = saidLive(capture, 'released').filter((one) => !released.includes(one));
        t.deepEqual(missing, []);
        t.deepEqual(sorted([...released, ...checkpoint]), numbersOf(capture));
      });
    }
  }

  test(`${name}: nothing is released that the SVM says otherwise`, (t) => {
    const capture = readCapture(name);
    const secondary = capture.frames.secondary.map((frame) => {
      const bytes = Buffer.from(frame.bytes);
      const last = bytes.length - 1;
      bytes.writeUInt8(bytes.readUInt8(last) ^ 1, last);
      return { ...frame, bytes };
    });
    const other = { ...capture, frames: { ...capture.frames, secondary } };
    const { released, mismatches } = replay(other, { split: true, order: 'captured' });
    t.true(mismatches.length > 0);
    t.true(released.length < saidLive(capture, 'released').length);
  });
}

for (const [name, kind] of Object.entries(DIVERGING)) {
  for (const { split, how } of SPLITS) {
    test(`${name}, ${how}: the mismatch is found, and explained`, (t) => {
      const { reasons, findings } = offline(readCapture(name), { split });
      t.true(reasons.divergence > 0);
      for (const { reason, mismatch } of findings) {
        if (reason !== 'divergence') continue;
        t.is(mismatch.kind, kind);
        t.notDeepEqual(mismatch.primary, mismatch.secondary);
      }
    });

    for (const order of ORDERS) {
      test(`${name}, ${how}, ${order}: what differs never leaves before the checkpoint`, (t) => {
        const capture = readCapture(name);
        const { released, checkpoint, mismatches, left } = replay(capture, { split, order });
        t.true(mismatches.length > 0);
        for (const mismatch of mismatches) {
          t.is(mismatch.kind, kind);
          const said = capture.frames.primary.some(({ bytes }) => bytes.includes(mismatch.primary));
          t.true(said, 'The explanation quotes nothing that the PVM said');
          t.false(left.some((bytes) => bytes.includes(mismatch.primary)));
        }
        for (const number of saidLive(capture, 'mismatch')) t.true(checkpoint.includes(number));
        t.deepEqual(sorted([...released, ...checkpoint]), numbersOf(capture));
      });
    }
  }
}
