import { createHash, randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import {
  ImageFile,
  NbdServer,
  ReplicatedDisk,
  SecondaryDisks,
  type SecondaryDisksOptions,
} from '../../../src/blockrep/index.js';
import { Prng, ProtocolError } from '../../../src/lib/index.js';
import { ModelStorage } from '../../support/model-storage.js';
import { collectingLog, hasTool, run, temporaryDirectory } from './support.js';

const MIB = 1 << 20;

async function secondary(t: ExecutionContext, more: Partial<SecondaryDisksOptions> = {}) {
  const directory = temporaryDirectory(t);
  const file = path.join(directory, 'disk.img');
  const image = await ImageFile.open({ path: file, sizeBytes: 8 * MIB });
  const log = collectingLog();
  const { bounds, ...others } = more;
  const all = await SecondaryDisks.open({
    vm: 'guest',
    images: [image],
    directory,
    log,
    bounds: { journalSegmentBytes: MIB, ...bounds },
    ...others,
  });
  const [disk] = all.disks;
  if (disk === undefined) throw new Error('No disk');
  t.teardown(() => all.close());
  return { directory, file, image, all, disk, log };
}

const block = (value: number, length = 4096) => Buffer.alloc(length, value);

test('SVM writes stay in the overlay and are gone after an apply', async (t) => {
  const { all, disk } = await secondary(t);
  await disk.write(4096, block(1), false);
  t.deepEqual(await disk.read(4096, 4096), block(1));
  t.deepEqual(await disk.readImage(4096, 4096), block(0));
  t.true(disk.stats.overlayBytes > 0);
  await all.stage(0, 5, { kind: 'write', offset: 0, data: block(2) });
  t.deepEqual(await all.closeEpoch(0, 5, { operations: 1, bytes: 4096 }), { ok: true });
  all.commit(5);
  await all.apply(5);
  t.deepEqual(await disk.read(0, 8192), Buffer.concat([block(2), block(0)]));
  t.is(disk.stats.overlayBytes, 0);
  t.is(disk.stats.bufferedBytes, 0);
});

test('staged writes are not in the image before they are applied', async (t) => {
  const { all, disk } = await secondary(t);
  await all.stage(0, 0, { kind: 'write', offset: 0, data: block(2) });
  await all.closeEpoch(0, 0, { operations: 1, bytes: 4096 });
  all.commit(0);
  t.deepEqual(await disk.readImage(0, 4096), block(0));
  t.deepEqual(await disk.read(0, 4096), block(0));
});

test('overlapping staged writes reach the image in order', async (t) => {
  const { all, disk } = await secondary(t);
  const expected = Buffer.alloc(MIB);
  let bytes = 0;
  for (let i = 0; i < 500; i++) {
    const offset = (i * 7919) % (MIB - 8192);
    const data = block(i % 256, 512 + ((i * 31) % 7000));
    data.copy(expected, offset);
    await all.stage(0, 0, { kind: 'write', offset, data });
    bytes += data.length;
  }
  await all.closeEpoch(0, 0, { operations: 500, bytes });
  all.commit(0);
  await all.apply(0);
  t.true((await disk.readImage(0, MIB)).equals(expected));
});

test('a small write staged after a large one that it overlaps wins', async (t) => {
  // The large one is spilled and must be read back first: without an order it would come last.
  const { all, disk } = await secondary(t, { bounds: { bufferMemoryBytes: MIB / 2 } });
  const large = block(1, MIB);
  for (let epoch = 0; epoch < 10; epoch++) {
    await all.stage(0, epoch, { kind: 'write', offset: 0, data: large });
    for (let i = 0; i < 3; i++) {
      await all.stage(0, epoch, {
        kind: 'write',
        offset: MIB - 512 * (i + 1),
        data: block(2, 512),
      });
    }
    await all.closeEpoch(0, epoch, { operations: 4, bytes: MIB + 3 * 512 });
    all.commit(epoch);
    await all.apply(epoch);
    t.deepEqual(
      await disk.readImage(MIB - 2048, 2048),
      Buffer.concat([block(1, 512), block(2, 1536)]),
    );
  }
});

test('an epoch with other counts than announced is refused and can not be committed', async (t) => {
  const { all, disk } = await secondary(t);
  await all.stage(0, 3, { kind: 'zero', offset: 0, length: 512 });
  const result = await all.closeEpoch(0, 3, { operations: 2, bytes: 1024 });
  t.false(result.ok);
  t.regex(result.ok ? '' : result.reason, /1 operations with 512 bytes where 2 with 1024/);
  t.throws(() => all.commit(3), { instanceOf: ProtocolError });
  await all.dropUncommitted();
  t.is(disk.stats.bufferedOperations, 0);
});

test('a peer that breaks the order of epochs gets a ProtocolError', async (t) => {
  const { all } = await secondary(t);
  const zero = { kind: 'zero', offset: 0, length: 512 } as const;
  await all.stage(0, 3, zero);
  t.throws(() => all.stage(0, 4, zero), { instanceOf: ProtocolError });
  t.throws(() => all.stage(0, 2, zero), { instanceOf: ProtocolError });
  t.throws(() => all.commit(3), { instanceOf: ProtocolError });
  await t.throwsAsync(all.apply(3), { instanceOf: ProtocolError });
  await all.closeEpoch(0, 3, { operations: 1, bytes: 512 });
  t.throws(() => all.stage(0, 3, zero), { instanceOf: ProtocolError });
  all.commit(3);
  t.throws(() => all.commit(3), { instanceOf: ProtocolError });
});

test('a peer that writes outside of the disk gets a ProtocolError', async (t) => {
  const { all } = await secondary(t);
  const outside = [
    { offset: 8 * MIB, length: 512 },
    { offset: 8 * MIB - 511, length: 512 },
    { offset: 0, length: 0 },
    { offset: 0, length: Number.MAX_SAFE_INTEGER },
  ];
  for (const { offset, length } of outside) {
    t.throws(() => all.stage(0, 1, { kind: 'trim', offset, length }), {
      instanceOf: ProtocolError,
    });
    await t.throwsAsync(all.syncZero(0, offset, length), { instanceOf: ProtocolError });
  }
});

test('promotion keeps what the SVM wrote and drops what was not committed', async (t) => {
  const { all, disk, file } = await secondary(t);
  await disk.write(100, Buffer.from('svm'), false);
  await disk.trim(MIB, 3 * MIB);
  await all.stage(0, 0, { kind: 'write', offset: 100, data: Buffer.from('pvm') });
  await all.promote();
  t.is((await disk.read(100, 3)).toString(), 'svm');
  await disk.write(103, Buffer.from('+direct'), true);
  t.is(disk.stats.mode, 'direct', 'FUA waits for the merge');
  t.is(fs.readFileSync(file).subarray(100, 110).toString(), 'svm+direct');
  t.throws(() => all.stage(0, 0, { kind: 'zero', offset: 0, length: 512 }), {
    instanceOf: ProtocolError,
  });
});

test('a flush waits for a promotion that is expected, and fails when there will be none', async (t) => {
  const { all, disk, file } = await secondary(t);
  await disk.flush();
  all.expectPromotion();
  await disk.write(100, Buffer.from('said'), false);
  let flushed = false;
  const flush = disk.flush().then(() => {
    flushed = true;
  });
  await all.stats;
  t.false(flushed);
  await all.promote();
  await flush;
  t.is(fs.readFileSync(file).subarray(100, 104).toString(), 'said');
  const other = await secondary(t);
  other.all.expectPromotion();
  const waiting = other.disk.flush();
  other.all.forgetPromotion();
  await t.throwsAsync(waiting, { code: 'COLO_E_DISK' });
  await other.disk.flush();
});

test('promotion applies a committed epoch first and discards the overlay then', async (t) => {
  const { all, disk, file } = await secondary(t);
  await disk.write(100, Buffer.from('svm'), false);
  await all.stage(0, 0, { kind: 'write', offset: 200, data: Buffer.from('pvm') });
  await all.closeEpoch(0, 0, { operations: 1, bytes: 3 });
  all.commit(0);
  await all.stage(0, 1, { kind: 'write', offset: 200, data: Buffer.from('lost') });
  await all.promote();
  await all.whenMerged();
  const bytes = fs.readFileSync(file);
  t.deepEqual(bytes.subarray(100, 103), Buffer.alloc(3));
  t.deepEqual(bytes.subarray(200, 204), Buffer.from('pvm\0'));
});

test('reads and writes are served while the overlay is merged', async (t) => {
  const { all, disk, file } = await secondary(t);
  const expected = randomBytes(6 * MIB);
  await disk.write(MIB, expected, false);
  await all.promote();
  const work: Promise<void>[] = [];
  for (let i = 0; i < 200; i++) {
    const at = (i * 30_011) % (6 * MIB - 600);
    const data = block(i % 256, 600);
    data.copy(expected, at);
    await disk.write(MIB + at, data, false);
    work.push(
      disk.read(MIB + at, 600).then((found) => {
        if (!found.equals(expected.subarray(at, at + 600))) throw new Error(`read ${i} is wrong`);
      }),
    );
    await work.at(-1);
  }
  await all.whenMerged();
  t.true(
    fs
      .readFileSync(file)
      .subarray(MIB, 7 * MIB)
      .equals(expected),
  );
});

test('what is written before its blocks are merged is not overwritten by the merge', async (t) => {
  const { all, disk, file } = await secondary(t);
  const expected = block(1, 8 * MIB);
  await disk.write(0, expected, false);
  await all.promote();
  // The merge goes upwards: these are in place before it comes by.
  const first = disk.write(7 * MIB + 100, block(2, 20_000), false);
  const zeroes = disk.writeZeroes(7.5 * MIB - 100, 20_000, { mayTrim: true, fua: false });
  await Promise.all([first, zeroes]);
  t.is(disk.stats.mode, 'promoting');
  await all.whenMerged();
  expected.fill(2, 7 * MIB + 100, 7 * MIB + 20_100).fill(0, 7.5 * MIB - 100, 7.5 * MIB + 19_900);
  t.true(fs.readFileSync(file).equals(expected));
  t.true((await disk.read(0, 8 * MIB)).equals(expected));
});

test('a promoted disk can be the base of a replicated one', async (t) => {
  const { all, disk } = await secondary(t);
  await disk.write(70_000, block(5), false);
  await all.promote();
  await all.whenMerged();
  const replicated = new ReplicatedDisk({ base: disk, onWrite: () => undefined });
  replicated.setMode('tracking');
  replicated.markAllDirty({ targetIsZeroes: true });
  t.deepEqual(replicated.takeDirty(100), [{ offset: 65536, length: 65536 }]);
});

test('an overlay beyond its spill bound fails the write and makes the disk unfit', async (t) => {
  const unfit: string[] = [];
  const { all, disk } = await secondary(t, {
    bounds: { overlayMemoryBytes: 0, overlaySpillBytes: 16384 },
    onUnfit: (reason) => unfit.push(reason),
  });
  await disk.write(0, block(1, 16384), false);
  await t.throwsAsync(disk.write(65536, block(2, 8192), false), {
    message: /reached its bound of 16384 bytes/,
  });
  t.is(unfit.length, 1);
  t.deepEqual(await disk.read(0, 16384), block(1, 16384));
  t.deepEqual(await disk.read(65536, 8192), block(0, 8192));
  await t.throwsAsync(all.promote(), { code: 'COLO_E_UNFIT' });
  await t.throwsAsync(disk.write(0, block(1), false), { code: 'COLO_E_UNFIT' });
});

test('an epoch that can not be stored is not closed with ok', async (t) => {
  const storage = new ModelStorage(new Prng(1));
  const { all, log } = await secondary(t, { storage });
  storage.failWrites = /journal/;
  const room = all.stage(0, 0, { kind: 'write', offset: 0, data: block(1) });
  const result = await all.closeEpoch(0, 0, { operations: 1, bytes: 4096 });
  await room;
  t.false(result.ok);
  t.truthy(all.unfit);
  await all.stage(0, 1, { kind: 'write', offset: 0, data: block(1) });
  t.is(all.stats.operationsRefused, 1);
  t.is(log.lines.filter((line) => line.startsWith('error')).length, 1);
});

test('too many operations or too much spilled data make the disk unfit', async (t) => {
  const many = await secondary(t, { bounds: { bufferOperations: 2 } });
  const large = await secondary(t, { bounds: { bufferMemoryBytes: 0, bufferSpillBytes: 8192 } });
  for (let i = 0; i < 3; i++) {
    await many.all.stage(0, 0, { kind: 'zero', offset: 0, length: 512 });
    await large.all.stage(0, 0, { kind: 'write', offset: 0, data: block(1) });
  }
  t.regex(many.all.unfit ?? '', /2 operations are buffered/);
  t.regex(large.all.unfit ?? '', /8192 bytes are in the journal only/);
});

test('past the soft bound a checkpoint is asked for, once per applied epoch', async (t) => {
  let asked = 0;
  const { all, disk } = await secondary(t, {
    bounds: { softBytes: 100_000 },
    onOverBound: () => {
      asked += 1;
    },
  });
  for (let i = 0; i < 60; i++) await disk.write(i * 4096, block(1), false);
  t.is(asked, 1);
  t.true(all.overBound);
  await all.closeEpoch(0, 0, { operations: 0, bytes: 0 });
  all.commit(0);
  await all.apply(0);
  t.false(all.overBound);
  for (let i = 0; i < 60; i++) await all.stage(0, 1, { kind: 'write', offset: 0, data: block(1) });
  t.is(asked, 2);
});

test('spilled epochs one after the other are applied from the same file', async (t) => {
  const { all, disk, directory } = await secondary(t, { bounds: { bufferMemoryBytes: 0 } });
  for (let epoch = 0; epoch < 5; epoch++) {
    for (let i = 0; i < 20; i++) {
      await all.stage(0, epoch, { kind: 'write', offset: i * 4096, data: block(epoch * 20 + i) });
    }
    t.is(all.stats.spilledBytes, 20 * 4096);
    t.deepEqual(await all.closeEpoch(0, epoch, { operations: 20, bytes: 20 * 4096 }), { ok: true });
    all.commit(epoch);
    await all.apply(epoch);
    for (let i = 0; i < 20; i++) {
      t.deepEqual(await disk.readImage(i * 4096, 4096), block(epoch * 20 + i));
    }
  }
  const files = fs.readdirSync(directory).sort();
  t.deepEqual(files, ['disk.img', 'guest.journal-0', 'guest.journal-1']);
});

test('an overlay that grows from memory into its file is read back whole', async (t) => {
  const { disk } = await secondary(t, { bounds: { overlayMemoryBytes: MIB } });
  const data = randomBytes(3 * MIB);
  await disk.write(4096 + 100, data, false);
  t.is(disk.stats.spilledBytes > 0, true);
  t.true((await disk.read(4096 + 100, data.length)).equals(data));
});

test('a trim of the whole disk costs the overlay nearly nothing', async (t) => {
  const { disk } = await secondary(t);
  await disk.write(0, randomBytes(MIB), false);
  await disk.trim(0, 8 * MIB);
  t.true(disk.stats.overlayBytes < 8192, `${disk.stats.overlayBytes} bytes`);
  t.deepEqual(await disk.read(MIB - 10, 20), Buffer.alloc(20));
});

test('synchronisation writes the image, and is refused once the SVM has written', async (t) => {
  const { all, disk } = await secondary(t);
  const data = randomBytes(65536);
  await all.syncWrite(0, 65536, data);
  await all.syncZero(0, 65536, 4096);
  const expected = Buffer.alloc(8 * MIB);
  data.copy(expected, 65536);
  expected.fill(0, 65536, 65536 + 4096);
  t.is(await disk.digest(), createHash('sha256').update(expected).digest('hex'));
  await disk.write(0, block(1), false);
  await t.throwsAsync(all.syncWrite(0, 0, data), { instanceOf: ProtocolError });
});

test('QEMU works on a secondary disk before and after its promotion', async (t) => {
  if (!hasTool(t, 'qemu-io')) {
    t.pass();
    return;
  }
  const { all, disk, directory, log } = await secondary(t);
  const socketPath = path.join(directory, 'nbd.sock');
  const server = new NbdServer({ socketPath, exports: new Map([['d', disk]]), log });
  await server.start();
  const io = (...commands: string[]) =>
    run(
      'qemu-io',
      '-f',
      'raw',
      `nbd+unix:///d?socket=${socketPath}`,
      ...commands.flatMap((command) => ['-c', command]),
    );
  t.notRegex(await io('write -P 1 1000 70000', 'write -z 5000 5000', 'flush'), /failed/);
  await all.promote();
  const output = await io(
    'read -P 1 1000 4000',
    'read -P 0 5000 5000',
    'read -P 1 10000 61000',
    'write -P 2 0 1M',
    'read -P 2 0 1M',
    'flush',
  );
  await server.stop();
  t.notRegex(output, /failed|verification/);
});
