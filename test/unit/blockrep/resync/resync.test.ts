/** A source and a target together, case by case; at random in test/property. */
import path from 'node:path';
import test from 'ava';
import {
  DIRTY_CLUSTER_BYTES as CLUSTER,
  DiskVerifier,
  digestLayer,
  encodeResyncMessage,
  ImageFile,
  RateLimit,
  ReplicatedDisk,
  type ResyncMessage,
  ResyncSource,
  SecondaryDisk,
} from '../../../../src/blockrep/index.js';
import { DIGEST_CLUSTERS_IN_FLIGHT_MAX } from '../../../../src/blockrep/limits.js';
import { ProtocolError } from '../../../../src/lib/index.js';
import { monotonicUs } from '../../../../src/linux/index.js';
import { ResyncPair } from '../../../support/resync-pair.js';
import { SparseDisk } from '../../../support/sparse-disk.js';
import { collectingLog, temporaryDirectory } from '../support.js';

const CLUSTERS = 64;
const SIZE = CLUSTERS * CLUSTER;

function setUp(options: { all?: boolean; rate?: RateLimit } = {}) {
  const image = new SparseDisk(SIZE);
  const copy = new SparseDisk(SIZE);
  const disk = new ReplicatedDisk({ base: image, onWrite: () => undefined });
  const pair = new ResyncPair({ disk: copy, changed: { trusted: true, ranges: [] } });
  disk.setMode('tracking');
  const source = new ResyncSource({
    index: 0,
    disk,
    link: pair.toTarget,
    all: options.all ?? true,
    changed: [],
    ...(options.rate === undefined ? {} : { rate: options.rate }),
  });
  pair.onMessage = (message: ResyncMessage) => {
    if (message.kind !== 'digestRequest') source.onMessage(message);
  };
  pair.onFailure = (error) => source.fail(error);
  return { image, copy, disk, pair, source };
}

test('a blank target is sent what is no zeroes, and its holes stay holes', async (t) => {
  const { image, copy, pair, source } = setUp();
  image.fill(3 * CLUSTER, Buffer.alloc(2 * CLUSTER, 1));
  image.fill(9 * CLUSTER, Buffer.alloc(CLUSTER));
  t.is(source.progress.phase, 'waiting');
  await pair.target.announce();
  t.is(await source.pass(), 0);
  await pair.toTarget.idle();
  t.true(copy.bytes.equals(image.bytes));
  t.deepEqual(
    copy.dataRanges().map(({ offset }) => offset / CLUSTER),
    [3, 4],
  );
  t.deepEqual([...copy.reads], [], 'holes are not read');
  t.deepEqual([...image.reads].sort(), [3, 4, 9], 'and here only once what is none');
  t.like(source.progress, {
    phase: 'following',
    candidates: CLUSTERS,
    compared: CLUSTERS,
    sentBytes: 2 * CLUSTER,
    leftBytes: 0,
    remainingS: 0,
  });
  await pair.end();
});

test('what is equal is not sent, what is zeroes here is emptied there', async (t) => {
  const { image, copy, pair, source } = setUp();
  for (const disk of [image, copy]) disk.fill(0, Buffer.alloc(10 * CLUSTER, 5));
  image.fill(4 * CLUSTER, Buffer.alloc(CLUSTER, 6));
  copy.fill(20 * CLUSTER, Buffer.alloc(CLUSTER, 7));
  await pair.target.announce();
  await source.pass();
  await pair.toTarget.idle();
  t.true(copy.bytes.equals(image.bytes));
  t.is(pair.syncBytes, CLUSTER);
  t.is(source.progress.differing, 2);
  t.is(copy.dataRanges().length, 10);
  await pair.end();
});

test('a resynchronisation of nothing changed asks for nothing', async (t) => {
  const { image, copy, pair, source } = setUp({ all: false });
  image.fill(0, Buffer.alloc(SIZE, 5));
  copy.fill(0, Buffer.alloc(SIZE, 5));
  await pair.target.announce();
  t.is(await source.pass(), 0);
  t.deepEqual(pair.requested, []);
  t.is(image.reads.size + copy.reads.size, 0);
  await pair.end();
});

test('writes of the guest are sent by the next pass', async (t) => {
  const { image, copy, disk, pair, source } = setUp();
  await pair.target.announce();
  await source.pass();
  await disk.write(7 * CLUSTER + 5, Buffer.alloc(10, 9), false);
  t.is(disk.dirtyBytes, CLUSTER);
  t.is(await source.pass(), 0);
  await pair.toTarget.idle();
  t.true(copy.bytes.equals(image.bytes));
  await pair.end();
});

test('the images of real files become equal, holes included', async (t) => {
  const directory = temporaryDirectory(t);
  const sizeBytes = 40 * CLUSTER + 512;
  const open = (name: string) => ImageFile.open({ path: path.join(directory, name), sizeBytes });
  const image = await open('image');
  const copy = await open('copy');
  const options = { spillDirectory: directory, log: collectingLog() };
  const secondary = new SecondaryDisk({ image: copy, ...options });
  for (const [at, value] of [
    [0, 1],
    [7, 2],
    [40, 3],
  ] as const) {
    await image.write(at * CLUSTER, Buffer.alloc(512, value), false);
  }
  await copy.write(7 * CLUSTER, Buffer.alloc(512, 2), false);
  await copy.write(20 * CLUSTER, Buffer.alloc(3 * CLUSTER, 9), false);
  const target = {
    sizeBytes,
    readImage: (offset: number, length: number) => secondary.readImage(offset, length),
    imageRanges: () => copy.dataRanges(),
    syncWrite: (offset: number, data: Buffer) => secondary.syncWrite(offset, data),
    syncZero: (offset: number, length: number) => secondary.syncZero(offset, length),
  };
  const pair = new ResyncPair({ disk: target, changed: { trusted: true, ranges: [] } });
  const disk = new ReplicatedDisk({ base: image, onWrite: () => undefined });
  disk.setMode('tracking');
  const source = new ResyncSource({ index: 0, disk, link: pair.toTarget, all: true, changed: [] });
  pair.onMessage = (message) => {
    if (message.kind !== 'digestRequest') source.onMessage(message);
  };
  await pair.target.announce();
  t.is(await source.pass(), 0);
  await pair.toTarget.idle();
  t.is(await secondary.digest(), await digestLayer(image));
  t.is(pair.syncBytes, CLUSTER + 512);
  await pair.end();
  await Promise.all([image.close(), secondary.close()]);
});

test('the rate is kept and the estimate follows it', async (t) => {
  const rate = new RateLimit(8 * 2 ** 20);
  const { image, pair, source } = setUp({ rate });
  image.fill(0, Buffer.alloc(32 * CLUSTER, 1));
  await pair.target.announce();
  const startUs = monotonicUs();
  const sending = source.pass();
  await sending;
  const seconds = (monotonicUs() - startUs) / 1e6;
  // 2 MiB at 8 MiB/s, less what is saved up; timers are never early.
  t.true(seconds >= 0.14, `${seconds} s`);
  await pair.end();
});

test('a link that ends while digests are awaited ends the pass', async (t) => {
  const { pair, source } = setUp();
  const pass = source.pass();
  pair.break(new Error('The link broke'));
  await t.throwsAsync(pass, { message: 'The link broke' });
  await pair.end();
});

test('a target that says what nobody asked for is refused', async (t) => {
  const { pair, source } = setUp();
  const refused = { instanceOf: ProtocolError };
  const digests = { kind: 'digests', disk: 0, request: 0, pieces: [] } as const;
  t.throws(() => source.onMessage(digests), refused);
  await pair.target.announce();
  await source.pass();
  t.throws(() => source.onMessage(digests), refused);
  const changed = { kind: 'changed', disk: 0, last: true, trusted: true, runs: [] } as const;
  t.throws(() => source.onMessage(changed), refused);
  await pair.end();
});

test('a source that asks beyond the disk or its window is refused', async (t) => {
  const { pair } = setUp();
  const ask = (runs: { first: number; count: number }[], epoch = 1) =>
    pair.target.request({ kind: 'digestRequest', disk: 0, request: 0, epoch, runs });
  const refused = { instanceOf: ProtocolError };
  t.throws(() => ask([{ first: CLUSTERS - 1, count: 2 }]), refused);
  // Of an epoch that never comes: they are held, but not without end.
  const times = DIGEST_CLUSTERS_IN_FLIGHT_MAX / CLUSTERS;
  for (let i = 0; i < times; i++) ask([{ first: 0, count: CLUSTERS }]);
  t.throws(() => ask([{ first: 0, count: 1 }]), refused);
  await pair.end();
});

test('an image that can not be read is told, and ends the session', async (t) => {
  const { copy, pair, source } = setUp();
  copy.fill(0, Buffer.alloc(CLUSTER, 1));
  copy.read = () => Promise.reject(new Error('EIO'));
  await pair.target.announce();
  await t.throwsAsync(source.pass());
  t.is(pair.failure?.message, 'No digests: EIO');
  await pair.end();
});

test('digests of an epoch wait until it is applied', async (t) => {
  const { copy, pair } = setUp();
  const answers: ResyncMessage[] = [];
  pair.onMessage = (message) => answers.push(message);
  const runs = [{ first: 0, count: 1 }];
  pair.target.request({ kind: 'digestRequest', disk: 0, request: 0, epoch: 3, runs });
  pair.target.applied(2);
  await pair.toSource.drained();
  t.deepEqual(answers, []);
  copy.fill(0, Buffer.alloc(1, 1));
  const arrived = new Promise<void>((resolve) => {
    pair.onMessage = (message) => {
      answers.push(message);
      resolve();
    };
  });
  pair.target.applied(3);
  await arrived;
  t.like(answers[0], { kind: 'digests', request: 0 });
  const [piece] = answers[0]?.kind === 'digests' ? answers[0].pieces : [];
  t.is(piece?.digests?.length, 16, 'it is of the image as it was applied');
  await pair.end();
});

test('what a target has changed is told in bounded pieces', async (t) => {
  const messages: ResyncMessage[] = [];
  const disk = new SparseDisk(0);
  const ranges = Array.from({ length: 5000 }, (_, i) => ({ offset: 2 * i * CLUSTER, length: 1 }));
  const pair = new ResyncPair({ disk, changed: { trusted: true, ranges } });
  pair.onMessage = (message) => messages.push(message);
  await pair.target.announce();
  t.deepEqual(
    messages.map((each) => (each.kind === 'changed' ? [each.runs.length, each.last] : each.kind)),
    [
      [4096, false],
      [904, true],
    ],
  );
  for (const message of messages) {
    t.true(Buffer.concat(encodeResyncMessage(message).parts).length < 64 * 1024);
  }
  await pair.end();
});

test('a verification reports what is written during every pass as not compared', async (t) => {
  const { image, copy, disk, pair } = setUp();
  for (const each of [image, copy]) each.fill(0, Buffer.alloc(SIZE, 5));
  copy.fill(30 * CLUSTER, Buffer.alloc(1, 9));
  const verifier = new DiskVerifier({ index: 0, disk, link: pair.toTarget });
  pair.onMessage = (message) => {
    if (message.kind === 'digests') verifier.onMessage(message);
  };
  t.throws(() => verifier.onMessage({ kind: 'digests', disk: 0, request: 0, pieces: [] }));
  let epoch = 0;
  while (verifier.wantsPass) {
    epoch += 1;
    verifier.beginPass(epoch);
    await disk.write(12 * CLUSTER, Buffer.alloc(1, epoch), false);
    pair.target.applied(epoch);
    await verifier.run();
  }
  t.deepEqual(verifier.result, {
    passes: 8,
    clusters: CLUSTERS,
    equal: CLUSTERS - 2,
    differing: 1,
    differingRanges: [{ offset: 30 * CLUSTER, length: CLUSTER }],
    notCompared: 1,
  });
  disk.setMode('untracked');
  disk.setMode('forwarding');
  t.is(verifier.repair(), CLUSTER);
  t.deepEqual(disk.takeDirty(10), [{ offset: 30 * CLUSTER, length: CLUSTER }]);
  await pair.end();
});

test('a change is noted before it is submitted, in every mode', async (t) => {
  for (const mode of ['untracked', 'tracking', 'forwarding'] as const) {
    const noted: string[] = [];
    const note = (who: string) => ({
      mark: (offset: number, length: number) => noted.push(`${who} ${offset}+${length}`),
    });
    const base = new SparseDisk(SIZE);
    const submit = async (what: string) => {
      noted.push(what);
    };
    base.write = () => submit('write');
    base.writeZeroes = () => submit('zeroes');
    base.trim = () => submit('trim');
    const disk = new ReplicatedDisk({ base, changes: note('map'), onWrite: () => undefined });
    disk.setMode(mode);
    disk.watchWrites(note('watch'));
    await disk.write(0, Buffer.alloc(5), false);
    disk.watchWrites(undefined);
    await disk.writeZeroes(7, 9, { mayTrim: false, fua: false });
    await disk.trim(20, 4);
    const order = ['map 0+5', 'watch 0+5', 'write', 'map 7+9', 'zeroes', 'map 20+4', 'trim'];
    t.deepEqual(noted, order);
  }
});
