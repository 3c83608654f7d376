/** The small parts of a resynchronisation: windows, candidates, rates, estimates, deadlines. */
import test from 'ava';
import { DirtyBitmap } from '../../../../src/blockrep/dirty-bitmap.js';
import {
  DIRTY_CLUSTER_BYTES as CLUSTER,
  DIGEST_CLUSTERS_IN_FLIGHT_MAX,
  DIGEST_REQUEST_CLUSTERS_MAX,
} from '../../../../src/blockrep/limits.js';
import { Candidates } from '../../../../src/blockrep/resync/candidates.js';
import { splitZeroes } from '../../../../src/blockrep/resync/clusters.js';
import { DigestWindow } from '../../../../src/blockrep/resync/digest-window.js';
import { Mailbox } from '../../../../src/blockrep/resync/mailbox-shell.js';
import { remainingUs } from '../../../../src/blockrep/resync/progress.js';
import type { ChangedMessage } from '../../../../src/blockrep/resync/resync-wire.js';
import { TokenBucket } from '../../../../src/blockrep/resync/token-bucket.js';
import { ProtocolError } from '../../../../src/lib/index.js';

const refused = { instanceOf: ProtocolError };

function window(clusters: number): DigestWindow {
  const candidates = new DirtyBitmap(clusters * CLUSTER);
  candidates.mark(0, clusters * CLUSTER);
  return new DigestWindow({ disk: 0, epoch: 0, candidates, firstRequest: 2 ** 32 - 1 });
}

test('no more than 64 MiB are asked for at once, each answer makes room', (t) => {
  const digests = window(2000);
  const asked = [];
  for (let next = digests.next(); next !== undefined; next = digests.next()) asked.push(next);
  t.is(asked.length, DIGEST_CLUSTERS_IN_FLIGHT_MAX / DIGEST_REQUEST_CLUSTERS_MAX);
  t.deepEqual(
    asked.map((each) => each.request),
    [2 ** 32 - 1, 0, 1, 2],
    'the number wraps around',
  );
  let answered = 0;
  for (let next = asked.shift(); next !== undefined; next = asked.shift()) {
    const { disk, request, runs } = next;
    t.false(digests.isDone);
    const pieces = runs.map((run) => ({ ...run, digests: undefined }));
    answered += digests
      .answer({ kind: 'digests', disk, request, pieces })
      .reduce((sum, piece) => sum + piece.count, 0);
    const more = digests.next();
    if (more !== undefined) asked.push(more);
  }
  t.is(answered, 2000);
  t.true(digests.isDone);
});

test('an answer that nobody asked for, or to another question, is refused', (t) => {
  const digests = window(10);
  const answer = (request: number, runs: { first: number; count: number }[]) => {
    const pieces = runs.map((run) => ({ ...run, digests: undefined }));
    return () => digests.answer({ kind: 'digests', disk: 0, request, pieces });
  };
  const all = [{ first: 0, count: 10 }];
  t.throws(answer(0, all), refused, 'nothing was asked yet');
  const request = digests.next()?.request ?? -1;
  t.throws(answer(request + 1, all), refused);
  t.throws(answer(request, []), refused);
  t.throws(answer(request, [{ first: 0, count: 9 }]), refused);
  t.throws(answer(request, [{ first: 0, count: 11 }]), refused);
  t.throws(answer(request, [{ first: 1, count: 10 }]), refused);
  t.notThrows(
    answer(request, [
      { first: 0, count: 4 },
      { first: 4, count: 6 },
    ]),
  );
  t.throws(answer(request, all), refused, 'once is enough');
});

function changed(fields: Partial<ChangedMessage>): ChangedMessage {
  return { kind: 'changed', disk: 0, last: true, trusted: true, runs: [], ...fields };
}

test('candidates are what either host changed', (t) => {
  const own = [{ offset: 5 * CLUSTER, length: 1 }];
  const candidates = new Candidates({ sizeBytes: 10 * CLUSTER + 1, all: false, own });
  candidates.changed(changed({ last: false, runs: [{ first: 2, count: 1 }] }));
  t.false(candidates.isComplete);
  candidates.changed(changed({ runs: [{ first: 10, count: 1 }] }));
  t.true(candidates.isComplete);
  t.false(candidates.isAll);
  t.deepEqual(
    [...candidates.bitmap.ranges()].map(({ offset, length }) => [offset / CLUSTER, length]),
    [
      [2, CLUSTER],
      [5, CLUSTER],
      [10, 1],
    ],
  );
});

test('every cluster is a candidate when the target does not trust its map', (t) => {
  const candidates = new Candidates({ sizeBytes: 3 * CLUSTER, all: false, own: [] });
  candidates.changed(changed({ trusted: false }));
  t.true(candidates.isAll);
  t.is(candidates.bitmap.dirtyClusters, 3);
});

test('a target may not say what can not be, nor say it for ever', (t) => {
  const fresh = () => new Candidates({ sizeBytes: 10 * CLUSTER, all: true, own: [] });
  const outside = changed({ runs: [{ first: 9, count: 2 }] });
  t.throws(() => fresh().changed(outside), refused);
  t.throws(() => fresh().changed(changed({ last: false })), refused, 'nothing, and more to come');
  const again = fresh();
  again.changed(changed({ last: false, runs: [{ first: 4, count: 2 }] }));
  t.throws(() => again.changed(changed({ runs: [{ first: 5, count: 1 }] })), refused);
  const done = fresh();
  done.changed(changed({}));
  t.throws(() => done.changed(changed({})), refused);
});

test('zeroes are found by cluster, the short last one included', (t) => {
  const data = Buffer.alloc(4 * CLUSTER + 512);
  data[CLUSTER] = 1;
  data[3 * CLUSTER - 1] = 1;
  t.deepEqual(splitZeroes(data), [
    { offset: 0, length: CLUSTER, zero: true },
    { offset: CLUSTER, length: 2 * CLUSTER, zero: false },
    { offset: 3 * CLUSTER, length: CLUSTER + 512, zero: true },
  ]);
});

test('the rate holds over time, with a short burst after a quiet time', (t) => {
  const bucket = new TokenBucket(1_000_000, 0);
  t.is(bucket.take(100_000, 0), 0, 'a tenth of a second is saved up');
  t.is(bucket.take(500_000, 0), 500_000);
  t.is(bucket.take(100_000, 500_000), 100_000, 'the debt is paid, nothing is saved');
  t.is(bucket.take(150_000, 60_000_000), 50_000, 'a minute saves no more than a tenth of a second');
  let nowUs = 100_000_000;
  const start = nowUs;
  for (let i = 0; i < 50; i++) nowUs += bucket.take(65_536, nowUs);
  const seconds = (nowUs - start) / 1e6;
  t.true(Math.abs(50 * 65_536 - seconds * 1_000_000 - 100_000) < 100, `${seconds} s`);
});

test('the rest is estimated from the pace so far and the limit', (t) => {
  t.is(remainingUs({ done: 0, left: 10, sinceUs: 0 }, 100), undefined);
  t.is(remainingUs({ done: 5, left: 10, sinceUs: 0 }, 100), 200);
  t.is(remainingUs({ done: 5, left: 0, sinceUs: 0 }, 100), 0);
  t.is(remainingUs({ done: 0, left: 10, sinceUs: 0 }, 100, 2), 5);
  t.is(remainingUs({ done: 5, left: 10, sinceUs: 0 }, 100, 0.01), 1000);
});

test('who waits for a message gets it, the end, or the deadline', async (t) => {
  const box = new Mailbox<number>(20);
  const waiting = box.next('a number');
  box.push(1);
  box.push(2);
  t.is(await waiting, 1);
  t.is(await box.next('a number'), 2);
  const error = await t.throwsAsync(box.next('a number'), refused);
  t.true(error?.message.includes('not sent a number for 0.02 s'));
  const ended = box.next('a number');
  box.fail(new Error('over'));
  box.push(3);
  await t.throwsAsync(ended, { message: 'over' });
  await t.throwsAsync(box.next('a number'), { message: 'over' });
});

test('a bitmap tells its ranges without clearing them', (t) => {
  const bitmap = new DirtyBitmap(100 * CLUSTER + 1);
  bitmap.mark(30 * CLUSTER, 40 * CLUSTER);
  bitmap.mark(100 * CLUSTER, 1);
  const ranges = [
    { offset: 30 * CLUSTER, length: 40 * CLUSTER },
    { offset: 100 * CLUSTER, length: 1 },
  ];
  t.deepEqual([...bitmap.ranges()], ranges);
  t.true(bitmap.isDirty(69) && !bitmap.isDirty(70) && !bitmap.isDirty(5000));
  t.is(bitmap.dirtyClusters, 41);
  bitmap.clear();
  t.deepEqual([...bitmap.ranges()], []);
  t.is(bitmap.dirtyClusters, 0);
});
