/** Large writes by reference, as native/disk-preload.c sends them, against the NBD server. */
import test, { type ExecutionContext } from 'ava';
import type { BorrowMemory } from '../../../src/blockrep/nbd-connection-shell.js';
import { PeerMemory, peerProcess } from '../../../src/linux/index.js';
import { MemoryDisk } from '../blockrep/support.js';
import { RAM_DESCRIPTOR, runClient } from './disk-client-process.js';
import { DISK_BYTES, fillRam, planWrites, RAM_BYTES } from './disk-plan.js';

/** Runs the client against a new disk. */
async function write(t: ExecutionContext, seed: number, options: { isDisk: boolean }) {
  const disk = new MemoryDisk(DISK_BYTES);
  let borrowed = 0;
  const borrowMemory: BorrowMemory = (fd) => {
    const memory = PeerMemory.open(peerProcess(fd), RAM_DESCRIPTOR);
    return {
      sizeBytes: memory.sizeBytes,
      copyOut: (offset, target, at, length) => {
        borrowed += length;
        memory.copyOut(offset, target, at, length);
      },
      close: () => memory.close(),
    };
  };
  const { waits } = await runClient<{ waits: number }>(t, {
    program: './disk-writes-child.js',
    args: [String(seed)],
    server: { exports: new Map([['disk0', disk]]), borrowMemory },
    ...options,
  });
  return { disk, borrowed, waits };
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
    const { disk, borrowed, waits } = await write(t, seed, { isDisk: true });
    t.true(disk.bytes.equals(bytes));
    t.is(borrowed, inRam, 'large writes that are all in guest RAM are not sent');
    t.true(inRam > 0 && waits > 0, `${inRam} bytes in RAM, ${waits} waits`);
  });
}

test('a socket of somebody else gets the data themselves', async (t) => {
  const { disk, borrowed } = await write(t, 4, { isDisk: false });
  t.true(disk.bytes.equals(expected(4).bytes));
  t.is(borrowed, 0);
});
