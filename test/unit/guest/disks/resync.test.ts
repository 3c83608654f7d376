/**
 * Sets of disks that met before: who may be overwritten, and how much of an image travels. The ways
 * there and back go through the same sessions and records as a pair of agents.
 */
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { ResyncProgress } from '../../../../src/blockrep/index.js';
import { RawClient, request } from '../../blockrep/support.js';
import { sessionClosed } from '../../transport/support.js';
import {
  attach,
  EPOCH,
  edge,
  type Host,
  MIB,
  type Pair,
  pattern,
  protect,
  SIZE,
  startHost,
  startPair,
  write,
} from './disk-hosts.js';

const CLUSTER = 64 * 1024;
const CLUSTERS = SIZE / CLUSTER;

/** One synchronisation and its first epoch; what there was to do, as `colo status` tells it. */
async function resync(pair: Pair, epoch: number): Promise<ResyncProgress> {
  await pair.primary.disks.syncRound();
  // As often as it likes.
  for (const _ of [1, 2]) await pair.primary.disks.syncStored();
  const progress = await figure(pair.primary, ({ phase }) => phase === 'following');
  await edge(pair, epoch);
  return progress;
}

/** The figures come by themselves, some times a second. */
async function figure(
  host: Host,
  holds: (progress: ResyncProgress) => boolean,
): Promise<ResyncProgress> {
  let progress: ResyncProgress | undefined;
  await until(() => {
    progress = host.disks.figures.disks[0]?.resync;
    return progress !== undefined && holds(progress);
  });
  return progress as ResyncProgress;
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await delay(5);
}

async function endSession(pair: Pair): Promise<void> {
  const ended = Promise.all([sessionClosed(pair.near), sessionClosed(pair.far)]);
  pair.near.destroy();
  await ended;
  pair.primary.disks.detach();
}

/** The primary is gone in good order, and the secondary's guest runs. */
async function failOver(t: ExecutionContext, pair: Pair): Promise<RawClient> {
  await endSession(pair);
  await pair.primary.disks.stop();
  await pair.secondary.disks.dropUncommitted();
  await pair.secondary.disks.promote();
  return RawClient.attach(t, pair.secondary.socketPath, 'root');
}

async function flush(client: RawClient): Promise<void> {
  client.send(request('flush', {}));
  await client.reply();
}

function sameImages(t: ExecutionContext, ...hosts: readonly Host[]): void {
  const [first, ...rest] = hosts.map(({ imagePath }) => fs.readFileSync(imagePath));
  for (const other of rest) t.true(first?.equals(other));
}

test('a secondary that was away gets what changed since, and nothing else', async (t) => {
  const pair = await startPair(t, pattern(SIZE, 1));
  t.deepEqual(pair.verdicts, [{ kind: 'all', why: 'the image is blank' }]);
  await protect(pair);
  t.is(await write(pair.guest, 3 * CLUSTER, pattern(4096, 2)), 0);
  await edge(pair, EPOCH + 1);
  await endSession(pair);
  await pair.primary.disks.beginAlone();
  await pair.secondary.disks.stop();
  // Two clusters, one of them with what it had before.
  t.is(await write(pair.guest, 10 * CLUSTER - 2048, pattern(4096, 3)), 0);

  const { directory } = pair.secondary;
  const secondary = await startHost(t, 'standby', { directory });
  const again = { ...pair, secondary, ...(await attach(t, pair.primary, secondary, EPOCH + 4)) };
  t.deepEqual(again.verdicts, [{ kind: 'changed' }]);
  const { candidates, compared, differing, sentBytes } = await resync(again, EPOCH + 4);
  t.deepEqual(
    { candidates, compared, differing, sentBytes },
    { candidates: 2, compared: 2, differing: 2, sentBytes: 2 * CLUSTER },
  );
  sameImages(t, pair.primary, secondary);
  await until(() => secondary.disks.figures.disks[0]?.generation?.state === 'standby');
});

test('a former primary gets what either side changed since the last common epoch', async (t) => {
  const pair = await startPair(t, pattern(SIZE, 4));
  await protect(pair);
  // Not committed, so it must go: here in the image of the former primary.
  t.is(await write(pair.guest, 5 * CLUSTER, pattern(4096, 5)), 0);
  const guest = await failOver(t, pair);
  t.is(await write(guest, 20 * CLUSTER, pattern(2 * CLUSTER, 6)), 0);

  const primary = pair.secondary;
  const secondary = await startHost(t, 'standby', { directory: pair.primary.directory });
  const back = { primary, secondary, guest, ...(await attach(t, primary, secondary, EPOCH + 9)) };
  t.deepEqual(back.verdicts, [{ kind: 'changed' }]);
  const { candidates, differing, sentBytes } = await resync(back, EPOCH + 9);
  t.deepEqual(
    { candidates, differing, sentBytes },
    { candidates: 3, differing: 3, sentBytes: 3 * CLUSTER },
  );
  await flush(guest);
  sameImages(t, primary, secondary);
});

test("what the SVM had written before a promotion is a change of the new primary's", async (t) => {
  const pair = await startPair(t, pattern(SIZE, 7));
  await protect(pair);
  const svm = await RawClient.attach(t, pair.secondary.socketPath, 'root');
  t.is(await write(svm, 30 * CLUSTER + 512, pattern(4096, 8)), 0);
  const guest = await failOver(t, pair);

  const primary = pair.secondary;
  const secondary = await startHost(t, 'standby', { directory: pair.primary.directory });
  const back = { primary, secondary, guest, ...(await attach(t, primary, secondary, EPOCH + 9)) };
  const { candidates, differing } = await resync(back, EPOCH + 9);
  t.deepEqual({ candidates, differing }, { candidates: 1, differing: 1 });
  await flush(guest);
  sameImages(t, primary, secondary);
});

test('without a change map all is compared and only what differs travels', async (t) => {
  const pair = await startPair(t, pattern(SIZE, 9));
  await protect(pair);
  t.is(await write(pair.guest, 5 * CLUSTER, pattern(4096, 10)), 0);
  const guest = await failOver(t, pair);
  t.is(await write(guest, 20 * CLUSTER, pattern(CLUSTER, 11)), 0);
  // As after a loss of power.
  fs.rmSync(path.join(pair.primary.directory, 'guest.root.changes'));

  const primary = pair.secondary;
  const secondary = await startHost(t, 'standby', { directory: pair.primary.directory });
  const back = { primary, secondary, guest, ...(await attach(t, primary, secondary, EPOCH + 9)) };
  t.like(back.verdicts, [{ kind: 'all' }]);
  const { candidates, differing, sentBytes } = await resync(back, EPOCH + 9);
  t.deepEqual(
    { candidates, differing, sentBytes },
    { candidates: CLUSTERS, differing: 2, sentBytes: 2 * CLUSTER },
  );
  await flush(guest);
  sameImages(t, primary, secondary);
});

test('a synchronisation whose link broke goes on with what is left', async (t) => {
  const primary = await startHost(t, 'live', { contents: pattern(SIZE, 12) });
  const first = await startHost(t, 'standby');
  const guest = await RawClient.attach(t, primary.socketPath, 'root');
  const session = await attach(t, primary, first, EPOCH, 4 * MIB);
  const pair: Pair = { primary, secondary: first, guest, ...session };
  const syncing = t.throwsAsync(primary.disks.syncRound());
  await until(() => fs.statSync(first.imagePath).blocks > 0);
  await endSession(pair);
  await syncing;
  await pair.secondary.disks.stop();
  const here = fs.readFileSync(first.imagePath);
  const contents = fs.readFileSync(primary.imagePath);
  let missing = 0;
  for (let at = 0; at < SIZE; at += CLUSTER) {
    if (!here.subarray(at, at + CLUSTER).equals(contents.subarray(at, at + CLUSTER))) missing += 1;
  }

  const secondary = await startHost(t, 'standby', { directory: first.directory });
  const again = { ...pair, secondary, ...(await attach(t, primary, secondary, EPOCH + 2)) };
  t.deepEqual(again.verdicts, [
    { kind: 'all', why: 'an earlier synchronisation of the image was not finished' },
  ]);
  const { differing, sentBytes } = await resync(again, EPOCH + 2);
  t.deepEqual({ differing, sentBytes }, { differing: missing, sentBytes: missing * CLUSTER });
  t.true(missing < CLUSTERS);
  sameImages(t, primary, secondary);
});

test('images of two guests are not made one', async (t) => {
  const primary = await startHost(t, 'live', { contents: pattern(SIZE, 13) });
  const other = await startHost(t, 'live', { contents: pattern(SIZE, 14) });
  await other.disks.stop();
  const secondary = await startHost(t, 'standby', { directory: other.directory });
  await t.throwsAsync(attach(t, primary, secondary), {
    message: /nothing in common .*colo discard-image --vm guest --disk root/,
  });
});

test('a verification finds what was changed behind the back of the pair, and repairs it', async (t) => {
  const pair = await startPair(t, pattern(SIZE, 15));
  await protect(pair);
  const { primary, secondary } = pair;
  const file = fs.openSync(secondary.imagePath, 'r+');
  fs.writeSync(file, pattern(4096, 16), 0, 4096, 40 * CLUSTER);
  fs.closeSync(file);

  const finding = primary.disks.verify(0, { repair: false });
  await edge(pair, EPOCH + 1);
  const { found, repairedBytes, afterwards } = await finding;
  t.like(found, { passes: 1, clusters: CLUSTERS, differing: 1, equal: CLUSTERS - 1 });
  t.deepEqual(found.differingRanges, [{ offset: 40 * CLUSTER, length: CLUSTER }]);
  t.deepEqual([repairedBytes, afterwards], [0, undefined]);

  let done = false;
  const repairing = primary.disks.verify(0, { repair: true }).finally(() => {
    done = true;
  });
  await t.throwsAsync(primary.disks.verify(0, { repair: false }), { message: /runs already/ });
  for (let epoch = EPOCH + 2; !done; epoch += 1) await edge(pair, epoch);
  const report = await repairing;
  t.is(report.repairedBytes, CLUSTER);
  t.like(report.afterwards, { differing: 0, equal: CLUSTERS });
  sameImages(t, primary, secondary);
});

test('a verification ends with its session', async (t) => {
  const pair = await startPair(t, pattern(SIZE, 17));
  await t.throwsAsync(pair.primary.disks.verify(0, { repair: false }), {
    message: /not protected/,
  });
  await protect(pair);
  const verifying = t.throwsAsync(pair.primary.disks.verify(0, { repair: false }), {
    message: 'The session is over',
  });
  await endSession(pair);
  await verifying;
});
