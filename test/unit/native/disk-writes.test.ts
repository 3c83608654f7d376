/** Large writes by reference, as native/disk-preload.c sends them, against the NBD server. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type BlockLayer, ImageFile } from '../../../src/blockrep/index.js';
import type { BorrowMemory } from '../../../src/blockrep/nbd-connection-shell.js';
import { PeerMemory, peerProcess } from '../../../src/linux/index.js';
import { MemoryDisk, temporaryDirectory } from '../blockrep/support.js';
import { RAM_DESCRIPTOR, runClient } from './disk-client-process.js';
import { DISK_BYTES, fillRam, planWrites, RAM_BYTES } from './disk-plan.js';

/** Runs the client against `disk`. `copied` and `written` are bytes of its memory. */
async function write(
  t: ExecutionContext,
  seed: number,
  options: { disk: BlockLayer; isDisk: boolean },
) {
  const { disk, isDisk } = options;
  let copied = 0;
  let written = 0;
  const borrowMemory: BorrowMemory = (fd) => {
    const memory = PeerMemory.open(peerProcess(fd), RAM_DESCRIPTOR);
    return {
      sizeBytes: memory.sizeBytes,
      copyOut: (offset, target, at, length) => {
        copied += length;
        memory.copyOut(offset, target, at, length);
      },
      writeOut: (pieces, file, position) => {
        const bytes = memory.writeOut(pieces, file, position);
        written += bytes;
        return bytes;
      },
      close: () => memory.close(),
    };
  };
  const { waits } = await runClient<{ waits: number }>(t, {
    program: './disk-writes-child.js',
    args: [String(seed)],
    server: { exports: new Map([['disk0', disk]]), borrowMemory },
    isDisk,
  });
  return { copied, written, waits };
}

/** What the disk must hold then, and how much of it was all in guest RAM. */
function expected(seed: number): { bytes: Buffer; inRam: number } {
  const sources = [Buffer.alloc(RAM_BYTES), Buffer.alloc(RAM_BYTES)] as const;
  fillRam(sources[0], seed);
  fillRam(sources[1], seed + 1);
  const bytes = Buffer.alloc(DISK_BYTES);
  let inRam = 0;
  for (const { offset, pieces } of planWrites(seed)) {
    let at = offset;
    for (const piece of pieces) {
      const source = sources[piece.inRam ? 0 : 1];
      source.copy(bytes, at, piece.at, piece.at + piece.length);
      at += piece.length;
    }
    if (at - offset >= 64 << 10 && pieces.every((each) => each.inRam)) inRam += at - offset;
  }
  return { bytes, inRam };
}

for (const seed of [1, 2, 3]) {
  test(`what is written from guest RAM and from elsewhere is on the disk, seed ${seed}`, async (t) => {
    const { bytes, inRam } = expected(seed);
    const disk = new MemoryDisk(DISK_BYTES);
    const { copied, written, waits } = await write(t, seed, { disk, isDisk: true });
    t.true(disk.bytes.equals(bytes));
    t.deepEqual(
      [copied, written],
      [inRam, 0],
      'large writes that are all in guest RAM are not sent',
    );
    t.true(inRam > 0 && waits > 0, `${inRam} bytes in RAM, ${waits} waits`);
  });

  test(`an image gets what is in guest RAM from there, seed ${seed}`, async (t) => {
    const { bytes, inRam } = expected(seed);
    const path = join(temporaryDirectory(t), 'disk.img');
    const disk = await ImageFile.open({ path, sizeBytes: DISK_BYTES });
    t.teardown(() => disk.close());
    const { copied, written } = await write(t, seed, { disk, isDisk: true });
    t.true(readFileSync(path).equals(bytes));
    t.is(copied + written, inRam);
    t.true(written > 0);
  });
}

test('a socket of somebody else gets the data themselves', async (t) => {
  const disk = new MemoryDisk(DISK_BYTES);
  const { copied } = await write(t, 4, { disk, isDisk: false });
  t.true(disk.bytes.equals(expected(4).bytes));
  t.is(copied, 0);
});
