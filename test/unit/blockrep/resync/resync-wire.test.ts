import test from 'ava';
import {
  CHANGED_RUNS_MAX,
  DIGEST_BYTES,
  DIGEST_REQUEST_CLUSTERS_MAX,
} from '../../../../src/blockrep/limits.js';
import {
  decodeResyncMessage,
  encodeResyncMessage,
  isResyncType,
  type ResyncMessage,
} from '../../../../src/blockrep/resync/resync-wire.js';
import { ProtocolError } from '../../../../src/lib/index.js';

function bytesOf(message: ResyncMessage): { type: number; payload: Buffer } {
  const { type, parts } = encodeResyncMessage(message);
  return { type, payload: Buffer.concat(parts) };
}

const refused = { instanceOf: ProtocolError };

test('the messages are what their table says', (t) => {
  const runs = [
    { first: 3, count: 2 },
    { first: 9, count: 1 },
  ];
  const changed = bytesOf({ kind: 'changed', disk: 1, last: true, trusted: true, runs });
  t.is(changed.type, 0x0136);
  t.is(
    changed.payload.toString('hex'),
    '000103' + '000000000000000300000002' + '000000000000000900000001',
  );
  const request = bytesOf({ kind: 'digestRequest', disk: 0, request: 7, epoch: 5, runs });
  t.is(request.type, 0x0137);
  t.is(
    request.payload.toString('hex'),
    '0000' +
      '00000007' +
      '0000000000000005' +
      '000000000000000300000002' +
      '000000000000000900000001',
  );
  const digests = Buffer.alloc(2 * DIGEST_BYTES, 0xab);
  const pieces = [
    { first: 3, count: 2, digests },
    { first: 9, count: 1, digests: undefined },
  ];
  const answer = bytesOf({ kind: 'digests', disk: 0, request: 7, pieces });
  t.is(answer.type, 0x0138);
  t.is(
    answer.payload.toString('hex'),
    '0000' +
      '00000007' +
      `00000000000000030000000201${'ab'.repeat(32)}` +
      '00000000000000090000000100',
  );
  for (const { type, payload } of [changed, request, answer]) {
    t.true(isResyncType(type));
    t.deepEqual(bytesOf(decodeResyncMessage(type, payload)), { type, payload });
  }
  t.false(isResyncType(0x0135) || isResyncType(0x0139));
});

test('runs out of order, empty, overlapping or beyond any disk are refused', (t) => {
  const request = (runs: { first: number; count: number }[]) =>
    bytesOf({ kind: 'digestRequest', disk: 0, request: 0, epoch: 0, runs });
  const last = 2 ** 37 - 1;
  const good = request([{ first: last - 1, count: 1 }]);
  t.notThrows(() => decodeResyncMessage(good.type, good.payload));
  for (const runs of [
    [],
    [{ first: 1, count: 0 }],
    [{ first: last, count: 2 }],
    [
      { first: 5, count: 2 },
      { first: 6, count: 1 },
    ],
    [
      { first: 5, count: 1 },
      { first: 1, count: 1 },
    ],
  ]) {
    const { type, payload } = request(runs);
    t.throws(() => decodeResyncMessage(type, payload), refused);
  }
});

test('the longest messages are accepted, one run or cluster more is not', (t) => {
  const every = (count: number) =>
    Array.from({ length: count }, (_, i) => ({ first: 2 * i, count: 1 }));
  const changed = (count: number) =>
    bytesOf({ kind: 'changed', disk: 0, last: false, trusted: true, runs: every(count) });
  const request = (runs: { first: number; count: number }[]) =>
    bytesOf({ kind: 'digestRequest', disk: 0, request: 0, epoch: 0, runs });
  const max = DIGEST_REQUEST_CLUSTERS_MAX;
  const answer = (count: number) => {
    const pieces = [{ first: 0, count, digests: undefined }];
    return bytesOf({ kind: 'digests', disk: 0, request: 0, pieces });
  };
  for (const { type, payload } of [
    changed(CHANGED_RUNS_MAX),
    request(every(max)),
    request([{ first: 0, count: max }]),
    answer(max),
  ]) {
    t.notThrows(() => decodeResyncMessage(type, payload));
  }
  for (const { type, payload } of [
    changed(CHANGED_RUNS_MAX + 1),
    request(every(max + 1)),
    request([{ first: 0, count: max + 1 }]),
    answer(max + 1),
    answer(2 ** 32 - 1),
  ]) {
    t.throws(() => decodeResyncMessage(type, payload), refused);
  }
});

test('unknown disks, types, flags and kinds are refused', (t) => {
  const { payload } = bytesOf({ kind: 'changed', disk: 0, last: true, trusted: true, runs: [] });
  t.throws(() => decodeResyncMessage(0x0139, payload), refused);
  t.throws(() => decodeResyncMessage(0x0136, Buffer.from('004000', 'hex')), refused);
  t.throws(() => decodeResyncMessage(0x0136, Buffer.from('000004', 'hex')), refused);
  const kind = Buffer.from('000000000007' + '000000000000000900000001' + '02', 'hex');
  t.throws(() => decodeResyncMessage(0x0138, kind), refused);
});
