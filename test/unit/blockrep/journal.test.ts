import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ImageFile, SecondaryDisk, SecondaryDisks } from '../../../src/blockrep/index.js';
import {
  decodeMark,
  decodeRecordHead,
  encodeMark,
  encodeRecord,
  recordChecksum,
} from '../../../src/blockrep/journal-format.js';
import { Prng } from '../../../src/lib/index.js';
import { ModelStorage } from '../../support/model-storage.js';
import { collectingLog, temporaryDirectory } from './support.js';

const MIB = 1 << 20;
const SIZE = 4 * MIB;
const JOURNALS = ['guest.journal-0', 'guest.journal-1'];

const block = (value: number, length = 4096) => Buffer.alloc(length, value);

async function openReal(t: ExecutionContext, directory: string, options: { live?: boolean } = {}) {
  const images = [];
  for (const name of ['a.img', 'b.img']) {
    images.push(await ImageFile.open({ path: path.join(directory, name), sizeBytes: SIZE }));
  }
  const bounds = { journalSegmentBytes: MIB, bufferMemoryBytes: 100_000 };
  const log = collectingLog();
  const disks = await SecondaryDisks.open({
    vm: 'guest',
    images,
    directory,
    log,
    bounds,
    ...options,
  });
  t.teardown(() => disks.close());
  return disks;
}

/** One write on each disk, stored and committed. */
async function commitEpoch(disks: SecondaryDisks, epoch: number, length = 4096): Promise<void> {
  for (const disk of [0, 1]) {
    for (let at = 0; at < length; at += MIB) {
      const data = block(epoch * 2 + disk, Math.min(MIB, length - at));
      await disks.stage(disk, epoch, { kind: 'write', offset: at, data });
    }
  }
  for (const disk of [0, 1]) {
    const totals = { operations: Math.ceil(length / MIB), bytes: length };
    const result = await disks.closeEpoch(disk, epoch, totals);
    if (!result.ok) throw new Error(result.reason);
  }
  disks.commit(epoch);
}

/** What a kill would leave: the files as they are, without the locks of this process. */
function copyOf(t: ExecutionContext, directory: string): string {
  const copy = temporaryDirectory(t);
  fs.cpSync(directory, copy, { recursive: true });
  return copy;
}

test('a mark counts only at its place and time', (t) => {
  const place = { nonce: Buffer.from('12345678'), sequence: 4, position: 8192 };
  const mark = { kind: 'begin', run: 2, epoch: 77, previous: 0xdeadbeef } as const;
  const bytes = encodeMark(place, mark);
  t.like(decodeMark(bytes, place), mark);
  t.is(decodeMark(bytes, { ...place, position: 4096 }), undefined);
  t.is(decodeMark(bytes, { ...place, sequence: 5 }), undefined);
  t.is(decodeMark(bytes, { ...place, nonce: Buffer.from('12345679') }), undefined);
});

test('the checksum of a record continues the one before it', (t) => {
  const fields = { kind: 'write', disk: 1, epoch: 5, offset: 512, length: 4096 } as const;
  const { head, crc } = encodeRecord(99, fields, block(1));
  t.like(decodeRecordHead(head), { ...fields, crc });
  t.is(recordChecksum(99, head, block(1)), crc);
  t.not(recordChecksum(98, head, block(1)), crc);
  t.not(recordChecksum(99, head, block(2)), crc);
});

test('an epoch of two disks costs one sync, and none without operations', async (t) => {
  const storage = new ModelStorage(new Prng(1));
  const names = ['image-0', 'image-1'];
  for (const name of names) storage.disk(name, SIZE);
  const images = names.map((name) => storage.image(name));
  const log = collectingLog();
  const disks = await SecondaryDisks.open({ vm: 'guest', images, directory: '/', log, storage });
  await commitEpoch(disks, 1);
  await disks.apply(1);
  storage.flushes.length = 0;
  await commitEpoch(disks, 2);
  await disks.apply(2);
  t.deepEqual(storage.flushes, ['guest.journal-0']);
  await commitEpoch(disks, 3, 0);
  await disks.apply(3);
  t.deepEqual(storage.flushes, ['guest.journal-0']);
});

test('a synchronisation is synced from time to time, and before its first epoch', async (t) => {
  const storage = new ModelStorage(new Prng(2));
  storage.disk('image', SIZE);
  const images = [storage.image('image')];
  const [log, bounds] = [collectingLog(), { unsyncedBytes: 8192, syncAfterMs: 5000 }];
  const options = { vm: 'guest', images, directory: '/', log, storage, bounds };
  const disks = await SecondaryDisks.open(options);
  storage.flushes.length = 0;
  const imageFlushes = () => storage.flushes.filter((name) => name === 'image').length;
  for (const [at, flushes] of [0, 1, 1, 2, 2].entries()) {
    await disks.syncWrite(0, at * 4096, block(7));
    t.is(imageFlushes(), flushes);
  }
  t.deepEqual(await disks.closeEpoch(0, 1, { operations: 0, bytes: 0 }), { ok: true });
  t.is(imageFlushes(), 3);
});

test('a synchronisation that was stored is not synced again before its first epoch', async (t) => {
  const storage = new ModelStorage(new Prng(2));
  storage.disk('image', SIZE);
  const images = [storage.image('image')];
  // As long as the test never takes.
  const [log, bounds] = [collectingLog(), { syncAfterMs: 5000 }];
  const options = { vm: 'guest', images, directory: '/', log, storage, bounds };
  const disks = await SecondaryDisks.open(options);
  storage.flushes.length = 0;
  const imageFlushes = () => storage.flushes.filter((name) => name === 'image').length;
  await disks.storeSynced();
  t.is(imageFlushes(), 0);
  await disks.syncWrite(0, 0, block(7));
  await disks.storeSynced();
  await disks.storeSynced();
  t.is(imageFlushes(), 1);
  t.deepEqual(await disks.closeEpoch(0, 1, { operations: 0, bytes: 0 }), { ok: true });
  t.is(imageFlushes(), 1);
});

test('what a kill leaves is made the last stored epoch on all disks', async (t) => {
  const directory = temporaryDirectory(t);
  const disks = await openReal(t, directory);
  t.is(disks.recoveredEpoch, undefined);
  await commitEpoch(disks, 1);
  await disks.apply(1);
  await commitEpoch(disks, 2);
  void disks.stage(0, 3, { kind: 'write', offset: 0, data: block(99) });
  for (const name of JOURNALS) {
    const stat = fs.statSync(path.join(directory, name));
    t.is(stat.mode & 0o777, 0o600);
    t.is(stat.size, MIB);
  }
  const copy = copyOf(t, directory);
  t.deepEqual(fs.readFileSync(path.join(copy, 'a.img')).subarray(0, 4096), block(2));
  const again = await openReal(t, copy);
  t.is(again.recoveredEpoch, 2);
  t.deepEqual(await again.disks[0]?.readImage(0, 4096), block(4));
  t.deepEqual(await again.disks[1]?.readImage(0, 4096), block(5));
});

test('a PVM opens its disks directly, after a replay, and leaves no journal', async (t) => {
  const directory = temporaryDirectory(t);
  const standby = await openReal(t, directory);
  await commitEpoch(standby, 8);
  const copy = copyOf(t, directory);
  const live = await openReal(t, copy, { live: true });
  t.is(live.recoveredEpoch, 8);
  t.deepEqual(fs.readdirSync(copy).sort(), ['a.img', 'b.img']);
  const [disk] = live.disks;
  t.is(disk?.stats.mode, 'direct');
  t.deepEqual(await disk?.read(0, 4096), block(16));
  await disk?.write(0, block(7), true);
  t.deepEqual(fs.readFileSync(path.join(copy, 'a.img')).subarray(0, 4096), block(7));
});

test('a disk alone can be opened directly', async (t) => {
  const directory = temporaryDirectory(t);
  const image = await ImageFile.open({ path: path.join(directory, 'a.img'), sizeBytes: SIZE });
  const log = collectingLog();
  const disk = new SecondaryDisk({ image, spillDirectory: directory, log, live: true });
  t.teardown(() => disk.close());
  await disk.write(512, block(3), true);
  t.deepEqual(await disk.readImage(512, 4096), block(3));
  t.is(disk.stats.mode, 'direct');
});

test('a second opening after a close in good order is told the epoch', async (t) => {
  const directory = temporaryDirectory(t);
  const disks = await openReal(t, directory);
  await commitEpoch(disks, 5);
  await disks.apply(5);
  await disks.close();
  const again = await openReal(t, directory);
  t.is(again.recoveredEpoch, 5);
  t.deepEqual(await again.disks[1]?.readImage(0, 4096), block(11));
  await again.syncWrite(0, 0, block(1));
  await again.close();
  const third = await openReal(t, directory);
  t.is(third.recoveredEpoch, undefined, 'half synchronised images are at no epoch');
});

test('a journal in use is refused', async (t) => {
  const directory = temporaryDirectory(t);
  await openReal(t, directory);
  const other = temporaryDirectory(t);
  const image = await ImageFile.open({ path: path.join(other, 'a.img'), sizeBytes: SIZE });
  t.teardown(() => image.close());
  const log = collectingLog();
  await t.throwsAsync(SecondaryDisks.open({ vm: 'guest', images: [image], directory, log }), {
    code: 'COLO_E_JOURNAL_LOCKED',
    message: /guest\.journal-0 is in use by another process/,
  });
});

test('many epochs stay within the files, and one larger than a file works', async (t) => {
  const directory = temporaryDirectory(t);
  const disks = await openReal(t, directory);
  for (let epoch = 1; epoch <= 60; epoch++) {
    await commitEpoch(disks, epoch, 50_000);
    await disks.apply(epoch);
  }
  for (const name of JOURNALS) t.is(fs.statSync(path.join(directory, name)).size, MIB);
  await commitEpoch(disks, 61, 3 * MIB);
  t.true(disks.stats.spilledBytes > 5 * MIB);
  const again = await openReal(t, copyOf(t, directory));
  t.is(again.recoveredEpoch, 61);
  t.true((await again.disks[1]?.readImage(0, 3 * MIB))?.equals(block(123, 3 * MIB)));
  await disks.apply(61);
  t.true((await disks.disks[1]?.readImage(0, 3 * MIB))?.equals(block(123, 3 * MIB)));
});
