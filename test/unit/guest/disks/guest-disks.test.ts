/**
 * Two sets of disks, each in its thread, joined by a session: what the guest writes through NBD at
 * the one is on the image of the other, epoch by epoch.
 */
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { encodeDiskMessage, lineageOf } from '../../../../src/blockrep/index.js';
import { NBD_PART_BYTES_MIN } from '../../../../src/blockrep/limits.js';
import { GuestDisks } from '../../../../src/guest/index.js';
import { RawClient, request, temporaryDirectory } from '../../blockrep/support.js';
import {
  LogCollector,
  sessionClosed,
  startListener,
  startSession,
} from '../../transport/support.js';
import {
  attach,
  EPOCH,
  edge,
  MIB,
  type Pair,
  pattern,
  protect,
  read,
  SIZE,
  startHost,
  startPair,
  write,
} from './disk-hosts.js';

test('the secondary gets the image, then every write with its epoch', async (t) => {
  const contents = pattern(SIZE, 1);
  const pair = await startPair(t, contents);
  const { primary, secondary, guest } = pair;
  t.is(await primary.disks.syncRound(), 0);

  // Between the last round and the edge: it travels as a write of the first epoch.
  const early = pattern(5000, 2);
  t.is(await write(guest, 12_345, early), 0);
  const first = await edge(pair, EPOCH);
  t.is(first.operations, 1);
  early.copy(contents, 12_345);
  t.true(fs.readFileSync(secondary.imagePath).equals(contents));

  const late = pattern(2 * MIB, 3);
  t.is(await write(guest, 3 * MIB, late), 0);
  t.true(fs.readFileSync(secondary.imagePath).equals(contents), 'nothing before the commit');
  const second = await edge(pair, EPOCH + 1);
  const { operations, ...rest } = second;
  t.deepEqual(rest, { epoch: EPOCH + 1, disk: 0, bytes: 2 * MIB });
  // In as many parts as it came in, of at most 1 MiB.
  t.true(operations >= 2 && operations <= (2 * MIB) / NBD_PART_BYTES_MIN, `${operations}`);
  late.copy(contents, 3 * MIB);
  t.true(fs.readFileSync(secondary.imagePath).equals(contents));
  t.true(fs.readFileSync(primary.imagePath).equals(contents));
});

test('an edge of another epoch than the running one is refused', async (t) => {
  const pair = await startPair(t, pattern(SIZE, 1));
  await protect(pair);
  await t.throwsAsync(pair.primary.disks.edge(EPOCH), { message: /epoch 8, not 7/ });
});

test('the SVM sees its own writes until an apply takes them away', async (t) => {
  const contents = pattern(SIZE, 4);
  const pair = await startPair(t, contents);
  await protect(pair);
  const svm = await RawClient.attach(t, pair.secondary.socketPath, 'root');
  const own = pattern(4096, 5);
  t.is(await write(svm, 8192, own), 0);
  t.true((await read(svm, 8192, 4096)).equals(own));
  await edge(pair, EPOCH + 1);
  t.true((await read(svm, 8192, 4096)).equals(contents.subarray(8192, 12_288)));
});

test('the end of the session is told by either end, and a new one begins anew', async (t) => {
  const contents = pattern(SIZE, 6);
  const pair = await startPair(t, contents);
  await protect(pair);
  const ended = sessionClosed(pair.near);
  pair.far.destroy();
  await ended;
  pair.primary.disks.detach();
  const data = pattern(4096, 7);
  t.is(await write(pair.guest, 0, data), 0);
  data.copy(contents, 0);
  await pair.secondary.disks.stop();

  const secondary = await startHost(t, 'standby');
  const again = { ...pair, secondary };
  await attach(t, pair.primary, secondary, EPOCH + 1);
  await pair.primary.disks.syncRound();
  await edge(again, EPOCH + 1);
  t.true(fs.readFileSync(secondary.imagePath).equals(contents));
});

test('a promoted secondary has the committed epoch and not the uncommitted writes', async (t) => {
  const contents = pattern(SIZE, 8);
  const pair = await startPair(t, contents);
  await protect(pair);
  t.is(await write(pair.guest, MIB, pattern(4096, 9)), 0);
  const ended = sessionClosed(pair.far);
  pair.near.destroy();
  await ended;
  const { secondary } = pair;
  await secondary.disks.dropUncommitted();
  await secondary.disks.promote();
  const client = await RawClient.attach(t, secondary.socketPath, 'root');
  t.true((await read(client, MIB, 4096)).equals(contents.subarray(MIB, MIB + 4096)));
  const own = pattern(4096, 10);
  t.is(await write(client, MIB, own), 0);
  client.send(request('flush', {}));
  t.is((await client.reply()).error, 0);
  own.copy(contents, MIB);
  t.true(fs.readFileSync(secondary.imagePath).equals(contents));
});

test('a promoted secondary protects itself by a secondary of its own', async (t) => {
  const contents = pattern(SIZE, 11);
  const pair = await startPair(t, contents);
  await protect(pair);
  const { secondary } = pair;
  const ended = sessionClosed(pair.far);
  pair.near.destroy();
  await ended;
  await secondary.disks.dropUncommitted();
  await secondary.disks.promote();
  const guest = await RawClient.attach(t, secondary.socketPath, 'root');
  const next = await startHost(t, 'standby');
  const session = await attach(t, secondary, next, EPOCH + 1);
  const second: Pair = { primary: secondary, secondary: next, guest, ...session };
  await secondary.disks.syncRound();
  const data = pattern(10_000, 12);
  t.is(await write(guest, 777, data), 0);
  await edge(second, EPOCH + 1);
  data.copy(contents, 777);
  t.true(fs.readFileSync(next.imagePath).equals(contents));
});

test('an epoch with too much to write asks for its end', async (t) => {
  const pair = await startPair(t, pattern(SIZE, 13));
  await protect(pair);
  const chunk = pattern(4 * MIB, 14);
  for (let written = 0; written <= 32 * MIB; written += chunk.length) {
    t.is(await write(pair.guest, 0, chunk), 0);
  }
  t.is((await pair.primary.overBound.reached(1))[0], EPOCH + 1);
});

test("an image that can not be had is the operator's to mend", async (t) => {
  const directory = temporaryDirectory(t);
  const disks = new GuestDisks({
    log: new LogCollector(),
    onFailure: (error) => t.fail(error.message),
  });
  t.teardown(() => disks.stop());
  const places = [{ name: 'root', path: path.join(directory, 'missing') }];
  const starting = disks.start({
    role: 'live',
    host: 'anna',
    vm: 'guest',
    disks: places,
    socketDirectory: directory,
    stateDirectory: directory,
  });
  const error = await t.throwsAsync(starting, { name: 'OperatorError' });
  t.is((error as Error & { code?: string }).code, 'COLO_E_IMAGE_OPEN');
});

/** A secondary whose primary says nothing by itself. */
async function startTarget(t: ExecutionContext) {
  const primary = await startHost(t, 'live', { contents: pattern(SIZE, 15) });
  const lineages = (await primary.disks.images()).map(({ record }) => lineageOf(record));
  const secondary = await startHost(t, 'standby');
  const { near, far } = await startSession(t, await startListener(t));
  await secondary.disks.attachTarget(far, lineages);
  return { secondary, near, far };
}

test('a stream that has not what it says leaves disks that are unfit', async (t) => {
  const { secondary, near } = await startTarget(t);
  const totals = { operations: 1, bytes: 4096 };
  const { type, parts } = encodeDiskMessage({ kind: 'epochEnd', epoch: 1, disk: 0, ...totals });
  near.links.disk.send(type, parts);
  const [reason] = await secondary.unfit.reached(1);
  t.regex(reason as string, /^Disk 0: .*1 with 4096 were announced/);
  t.deepEqual(secondary.staged.all, []);
});

test('malformed bytes on the disk link end the session with their reason', async (t) => {
  const { secondary, near, far } = await startTarget(t);
  const ended = sessionClosed(far);
  near.links.disk.send(0x0199, [Buffer.from('nonsense')]);
  await ended;
  await secondary.log.reached(1);
  t.is(secondary.log.lines[0]?.message, 'Link dropped');
  t.regex(String(secondary.log.lines[0]?.fields['reason']), /0x199/);
});
