import test from 'ava';
import {
  DIRTY_CLUSTER_BYTES,
  type DiskMessage,
  type DiskOperation,
  EpochSender,
  ReplicatedDisk,
} from '../../../src/blockrep/index.js';
import { LentData } from '../../../src/blockrep/nbd-references.js';
import { MemoryDisk, references } from './support.js';

const SIZE = 10 * DIRTY_CLUSTER_BYTES + 512;

function replicated() {
  const base = new MemoryDisk(SIZE);
  const operations: DiskOperation[] = [];
  const disk = new ReplicatedDisk({
    base,
    onWrite: (operation) => {
      operations.push(operation);
      return undefined;
    },
  });
  return { base, disk, operations };
}

test('untracked changes go through and are remembered nowhere', async (t) => {
  const { base, disk, operations } = replicated();
  await disk.write(0, Buffer.from('abc'), false);
  t.is(base.bytes.subarray(0, 3).toString(), 'abc');
  t.is(disk.dirtyBytes, 0);
  t.deepEqual(operations, []);
});

test('only the image sees lent data, or they are not written from where they are', (t) => {
  const told: [number, number][] = [];
  const written: number[] = [];
  const base = Object.assign(new MemoryDisk(SIZE), {
    writeLent(offset: number, { length }: LentData): boolean {
      t.deepEqual(told.at(-1), [offset, length], 'told before it is submitted');
      written.push(offset);
      return true;
    },
  });
  const changes = { mark: (offset: number, length: number) => void told.push([offset, length]) };
  const disk = new ReplicatedDisk({ base, onWrite: () => undefined, changes });
  const memory = { sizeBytes: 4096, copyOut: () => undefined, writeOut: () => 512 };
  const data = LentData.of(references([{ offset: 0, length: 512 }]), memory, 512);
  t.true(disk.writeLent(0, data));
  disk.setMode('tracking');
  t.false(disk.writeLent(512, data));
  disk.setMode('forwarding');
  t.false(disk.writeLent(1024, data));
  disk.setMode('untracked');
  t.true(disk.writeLent(1536, data));
  t.deepEqual(written, [0, 1536]);
});

test('tracked changes mark their clusters, taken ranges are clean', async (t) => {
  const { disk } = replicated();
  disk.setMode('tracking');
  await disk.write(DIRTY_CLUSTER_BYTES - 1, Buffer.from('ab'), false);
  await disk.trim(5 * DIRTY_CLUSTER_BYTES, 1);
  await disk.writeZeroes(SIZE - 1, 1, { mayTrim: false, fua: false });
  t.is(disk.dirtyBytes, 4 * DIRTY_CLUSTER_BYTES);
  t.deepEqual(disk.takeDirty(2), [{ offset: 0, length: 2 * DIRTY_CLUSTER_BYTES }]);
  t.deepEqual(disk.takeDirty(100), [
    { offset: 5 * DIRTY_CLUSTER_BYTES, length: DIRTY_CLUSTER_BYTES },
    { offset: 10 * DIRTY_CLUSTER_BYTES, length: 512 },
  ]);
  t.is(disk.dirtyBytes, 0);
  t.deepEqual(disk.takeDirty(100), []);
});

test('a write that races with the reading of its cluster marks it again', async (t) => {
  const { base, disk } = replicated();
  disk.setMode('tracking');
  disk.markDirty({ offset: 0, length: 1 });
  let open: () => void = () => undefined;
  base.gate = () =>
    new Promise((resolve) => {
      open = resolve;
    });
  const write = disk.write(0, Buffer.from('new'), false);
  t.is(disk.takeDirty(1).length, 1);
  t.is((await disk.read(0, 3)).toString(), '\0\0\0');
  open();
  await write;
  t.is(disk.takeDirty(1).length, 1);
});

test('a failed write is marked too', async (t) => {
  const { base, disk } = replicated();
  disk.setMode('tracking');
  base.gate = () => Promise.reject(new Error('broken'));
  await t.throwsAsync(disk.write(0, Buffer.from('new'), false));
  t.is(disk.takeDirty(1).length, 1);
});

test('a write that began before forwarding is marked, not forwarded', async (t) => {
  const { base, disk, operations } = replicated();
  disk.setMode('tracking');
  let open: () => void = () => undefined;
  base.gate = () =>
    new Promise((resolve) => {
      open = resolve;
    });
  const write = disk.write(0, Buffer.from('new'), false);
  disk.setMode('forwarding');
  open();
  await write;
  t.is(disk.dirtyBytes, DIRTY_CLUSTER_BYTES);
  t.deepEqual(operations, []);
});

test('forwarded changes are handed on as they are', async (t) => {
  const { disk, operations } = replicated();
  disk.setMode('forwarding');
  const data = Buffer.from('abc');
  await disk.write(7, data, true);
  await disk.writeZeroes(512, 512, { mayTrim: false, fua: false });
  await disk.writeZeroes(1024, 512, { mayTrim: true, fua: false });
  await disk.trim(2048, 512);
  t.deepEqual(operations, [
    { kind: 'write', offset: 7, data },
    { kind: 'zero', offset: 512, length: 512 },
    { kind: 'trim', offset: 1024, length: 512 },
    { kind: 'trim', offset: 2048, length: 512 },
  ]);
  t.is(disk.dirtyBytes, 0);
  t.is(disk.stats.bytesForwarded, 3 + 3 * 512);
});

test('back-pressure delays the answer to the guest, not the image', async (t) => {
  const base = new MemoryDisk(SIZE);
  let open: () => void = () => undefined;
  const room = new Promise<void>((resolve) => {
    open = resolve;
  });
  const disk = new ReplicatedDisk({ base, onWrite: () => room });
  disk.setMode('forwarding');
  let done = false;
  const write = disk.write(0, Buffer.from('abc'), false).then(() => {
    done = true;
  });
  for (let i = 0; i < 20; i++) await Promise.resolve();
  t.is(base.bytes.subarray(0, 3).toString(), 'abc');
  t.false(done);
  open();
  await write;
  t.true(done);
});

test('everything is marked for a target with content, data only for an empty one', (t) => {
  const { base, disk } = replicated();
  disk.setMode('tracking');
  disk.markAllDirty({ targetIsZeroes: true });
  t.is(disk.dirtyBytes, SIZE, 'this layer does not know its holes');
  disk.takeDirty(100);
  Object.assign(base, { dataRanges: () => [{ offset: 70_000, length: 10 }] });
  disk.markAllDirty({ targetIsZeroes: true });
  t.deepEqual(disk.takeDirty(100), [{ offset: 65_536, length: 65_536 }]);
  disk.markAllDirty({ targetIsZeroes: false });
  t.is(disk.dirtyBytes, SIZE);
});

test('an epoch sender splits large writes and counts what it sent', (t) => {
  const sender = new EpochSender(3);
  const data = Buffer.alloc(2.5 * 1024 * 1024, 1);
  const messages = sender.messages(8, { kind: 'write', offset: 512, data });
  t.deepEqual(
    messages.map((each) => (each.kind === 'write' ? [each.offset, each.data.length] : [])),
    [
      [512, 1 << 20],
      [512 + (1 << 20), 1 << 20],
      [512 + (2 << 20), 1 << 19],
    ],
  );
  t.deepEqual(sender.messages(8, { kind: 'trim', offset: 0, length: 512 }), [
    { kind: 'trim', epoch: 8, disk: 3, offset: 0, length: 512 },
  ] satisfies DiskMessage[]);
  const bytes = data.length + 512;
  t.deepEqual(sender.end(8), { kind: 'epochEnd', epoch: 8, disk: 3, operations: 4, bytes });
  t.deepEqual(sender.totals, { operations: 0, bytes: 0 });
});

test('a flush in a pause of the guest is answered at once, and done behind it', async (t) => {
  const { base, disk } = replicated();
  await disk.flush();
  t.is(base.flushes, 1);
  disk.beginPause();
  await disk.flush();
  await disk.flush();
  t.is(base.flushes, 1);
  await disk.endPause();
  t.is(base.flushes, 2);
  disk.beginPause();
  await disk.endPause();
  t.is(base.flushes, 2);
  await disk.flush();
  t.is(base.flushes, 3);
});
