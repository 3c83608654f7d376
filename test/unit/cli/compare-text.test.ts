import test from 'ava';
import type { CompareWish } from '../../../src/cli/colo-arguments.js';
import type { CompareOutcome } from '../../../src/cli/compare-files.js';
import { comparisonJson, formatComparison, isMismatched } from '../../../src/cli/compare-text.js';

const WISH: CompareWish = {
  primary: 'd/primary.pcap',
  secondary: 'd/secondary.pcap',
  inbound: undefined,
  verdicts: undefined,
  compareTimeoutUs: 200_000,
  split: false,
  json: false,
};
const EQUAL: CompareOutcome = {
  report: {
    frames: { primary: 10, secondary: 9, inbound: 0 },
    releasedFrames: 10,
    madeFrames: 0,
    heldFrames: 0,
    undecidedFrames: 0,
    skippedFrames: 0,
    firstFrameUs: 1_000_000,
    epochs: 1,
    openedFlows: 2,
    reasons: { divergence: 0, timeout: 0, bound: 0 },
    flows: [],
    findings: [],
  },
  epochs: { path: undefined, edges: [], droppedFrames: 0, endUs: undefined },
};
const DIFFERENT: CompareOutcome = {
  report: {
    ...EQUAL.report,
    frames: { primary: 10, secondary: 9, inbound: 7 },
    releasedFrames: 4,
    heldFrames: 3,
    undecidedFrames: 2,
    skippedFrames: 1,
    epochs: 3,
    madeFrames: 1,
    reasons: { divergence: 2, timeout: 1, bound: 1 },
    flows: [
      { flow: 'tcp 10.0.0.5:22 - 10.0.0.1:4001', mismatches: 0, heldFrames: 1 },
      { flow: 'udp 10.0.0.5:53 - 10.0.0.1:4000', mismatches: 1, heldFrames: 0 },
      { flow: 'tcp 10.0.0.5:80 - 10.0.0.1:4000', mismatches: 2, heldFrames: 2 },
    ],
    findings: [
      {
        reason: 'divergence',
        timeUs: 1_500_000,
        epoch: 7,
        mismatch: {
          flow: 'tcp 10.0.0.5:80 - 10.0.0.1:4000',
          kind: 'data',
          offset: 1460,
          primary: Buffer.from('HTTP/1.1 200 OK\r\nx'),
          secondary: Buffer.from('HTTP/1.1 200 OK\r\ny'),
          note: '',
        },
      },
      {
        reason: 'timeout',
        timeUs: 1_600_001,
        epoch: undefined,
        mismatch: {
          flow: 'udp 10.0.0.5:53 - 10.0.0.1:4000',
          kind: 'timeout',
          offset: 0,
          primary: Buffer.from([0, 0x7f, 0x80, 0xff]),
          secondary: Buffer.alloc(0),
          note: 'the SVM has said nothing',
        },
      },
      {
        reason: 'bound',
        timeUs: 1_600_002,
        epoch: undefined,
        mismatch: {
          flow: '',
          kind: 'bound',
          offset: 0,
          primary: Buffer.alloc(0),
          secondary: Buffer.alloc(0),
          note: 'too many flows',
        },
      },
    ],
  },
  epochs: { path: 'd/verdicts.jsonl', edges: [], droppedFrames: 5, endUs: undefined },
};

test('equal captures are a summary', (t) => {
  t.false(isMismatched(EQUAL));
  t.deepEqual(formatComparison(WISH, EQUAL).split('\n'), [
    'Primary          10 frames, d/primary.pcap',
    'Secondary        9 frames, d/secondary.pcap',
    'Inbound          none',
    'Epochs           one, from the first frame to the last',
    'New connections  2',
    'Released         10 frames of the primary',
    'Held             0 frames, until the end of their epoch',
    'Mismatches       none',
    '',
  ]);
});

test('every mismatch is explained, with the bytes of both sides', (t) => {
  t.true(isMismatched(DIFFERENT));
  t.deepEqual(formatComparison({ ...WISH, inbound: 'in.pcap' }, DIFFERENT).split('\n'), [
    'Primary          10 frames, d/primary.pcap',
    'Secondary        9 frames, d/secondary.pcap',
    'Inbound          7 frames, in.pcap',
    'Epochs           3, by verdicts.jsonl; the capture was cut off',
    'New connections  2',
    'Released         4 frames of the primary',
    'Held             3 frames, until the end of their epoch',
    'Made             1 frame of the comparer',
    'Undecided        2 frames, the capture ends before',
    'Not compared     1 frame, before or between epochs',
    'Left out         5 frames by the capture: they look like mismatches',
    'Mismatches       4 (divergence 2, timeout 1, bound 1), the first 3 are explained',
    '                 tcp 10.0.0.5:80 - 10.0.0.1:4000: 2 mismatches, 2 frames held',
    '                 udp 10.0.0.5:53 - 10.0.0.1:4000: 1 mismatch',
    '                 tcp 10.0.0.5:22 - 10.0.0.1:4001: 1 frame held',
    '',
    '1. the guests differ, 0.500000 s after the first frame, epoch 7',
    '   tcp 10.0.0.5:80 - 10.0.0.1:4000, data at offset 1460',
    '   primary    48 54 54 50 2f 31 2e 31 20 32 30 30 20 4f 4b 0d  HTTP/1.1 200 OK.',
    '   secondary  48 54 54 50 2f 31 2e 31 20 32 30 30 20 4f 4b 0d  HTTP/1.1 200 OK.',
    '   primary    0a 78                                            .x',
    '   secondary  0a 79                                            .y',
    '',
    '2. the other guest did not say it in time, 0.600001 s after the first frame',
    '   udp 10.0.0.5:53 - 10.0.0.1:4000, timeout at offset 0',
    '   the SVM has said nothing',
    '   secondary  nothing',
    '   primary    00 7f 80 ff                                      ....',
    '',
    '3. too much waits for the other guest, 0.600002 s after the first frame',
    '   too many flows',
    '',
  ]);
});

test('JSON has the counts and every mismatch in hex', (t) => {
  const json = JSON.parse(JSON.stringify(comparisonJson(WISH, DIFFERENT)));
  t.like(json, { ok: true, mismatched: true, inbound: null, verdicts: 'd/verdicts.jsonl' });
  t.like(json, { releasedFrames: 4, droppedFrames: 5, cutOff: true, epochs: 3 });
  t.deepEqual(
    json.flows.map(({ mismatches }: { mismatches: number }) => mismatches),
    [2, 1, 0],
  );
  t.deepEqual(json.mismatches[1], {
    reason: 'timeout',
    timeUs: 1_600_001,
    epoch: null,
    flow: 'udp 10.0.0.5:53 - 10.0.0.1:4000',
    kind: 'timeout',
    offset: 0,
    primary: '007f80ff',
    secondary: '',
    note: 'the SVM has said nothing',
  });
  t.like(JSON.parse(JSON.stringify(comparisonJson(WISH, EQUAL))), { mismatched: false });
});
