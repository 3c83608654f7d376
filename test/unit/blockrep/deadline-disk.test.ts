/** A disk that hangs fails its requests, and does nothing behind anybody's back. */
import test from 'ava';
import { DeadlineDisk, DiskError } from '../../../src/blockrep/index.js';
import { MemoryDisk } from './support.js';

const TIMEOUT_MS = 50;
const HANGS = { instanceOf: DiskError, message: /has not answered for 50 ms/ };

function hangingDisk(): { memory: MemoryDisk; disk: DeadlineDisk; release: () => void } {
  const memory = new MemoryDisk(8192);
  let release = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  memory.gate = () => gate;
  return { memory, disk: new DeadlineDisk(memory, TIMEOUT_MS), release };
}

test('requests of a disk that answers pass', async (t) => {
  const memory = new MemoryDisk(8192);
  const disk = new DeadlineDisk(memory, TIMEOUT_MS);
  await disk.write(0, Buffer.from('abc'), false);
  await disk.flush();
  t.is((await disk.read(0, 3)).toString(), 'abc');
  const target = Buffer.alloc(3);
  await disk.readInto(0, target);
  t.is(target.toString(), 'abc');
  t.is(memory.flushes, 1);
});

test('a request that hangs fails in time, and all others with it', async (t) => {
  const { disk } = hangingDisk();
  await t.throwsAsync(disk.write(0, Buffer.from('old'), false), HANGS);
  await t.throwsAsync(disk.read(4096, 512), HANGS);
  await t.throwsAsync(disk.flush(), HANGS);
});

test('once the late request is done after all, the disk serves again', async (t) => {
  const { memory, disk, release } = hangingDisk();
  await t.throwsAsync(disk.write(0, Buffer.from('old'), false), HANGS);
  await t.throwsAsync(disk.write(0, Buffer.from('new'), false), HANGS);
  t.is(memory.bytes.toString('latin1', 0, 3), '\0\0\0', 'the newer write did not overtake it');
  release();
  memory.gate = undefined;
  await new Promise((resolve) => setImmediate(resolve));
  t.is(memory.bytes.toString('latin1', 0, 3), 'old');
  await disk.write(0, Buffer.from('new'), false);
  t.is(memory.bytes.toString('latin1', 0, 3), 'new');
});

test('what the disk itself fails is told as it is', async (t) => {
  const memory = new MemoryDisk(8192);
  memory.gate = () => Promise.reject(new DiskError('No room', 'ENOSPC'));
  const disk = new DeadlineDisk(memory, TIMEOUT_MS);
  await t.throwsAsync(disk.write(0, Buffer.from('a'), false), { message: 'No room' });
  t.is((await disk.read(0, 1)).length, 1);
});
