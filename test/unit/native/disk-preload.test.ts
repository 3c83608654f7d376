/** The preload library's disk part, against the NBD server: a process that does what QEMU does. */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { NbdServer } from '../../../src/blockrep/index.js';
import type { BorrowMemory } from '../../../src/blockrep/nbd-connection-shell.js';
import { createSealedMemoryFile, PeerMemory, peerProcess } from '../../../src/linux/index.js';
import { collectingLog, MemoryDisk, temporaryDirectory } from '../blockrep/support.js';
import { DISK_BYTES, fill, fillRam, planWrites, RAM_BYTES } from './disk-plan.js';

const CHILD = fileURLToPath(new URL('./disk-client-child.js', import.meta.url));
const RAM_DESCRIPTOR = 3;
const CONTROL_DESCRIPTOR = 4;

/** Runs the client against a new disk. */
async function write(t: ExecutionContext, seed: number, options: { isDisk: boolean }) {
  const directory = temporaryDirectory(t);
  const socketPath = path.join(directory, 'disk-0');
  const disk = new MemoryDisk(DISK_BYTES);
  const log = collectingLog();
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
  const server = new NbdServer({
    socketPath,
    exports: new Map([['disk0', disk]]),
    borrowMemory,
    log,
  });
  await server.start();
  t.teardown(() => server.stop());
  const ram = createSealedMemoryFile('colo-test-ram', RAM_BYTES);
  const child = spawn(process.execPath, [CHILD, socketPath, String(seed)], {
    stdio: ['ignore', 'pipe', 'pipe', ram, 'pipe'],
    env: {
      COLO_AGENT: String(process.pid),
      COLO_RAM_FD: String(RAM_DESCRIPTOR),
      COLO_CONTROL_FD: String(CONTROL_DESCRIPTOR),
      COLO_DISK_DIRECTORY: options.isDisk ? directory : '/nowhere',
    },
  });
  t.teardown(() => child.kill('SIGKILL'));
  closeSync(ram);
  let output = '';
  let errors = '';
  child.stdout?.on('data', (chunk) => {
    output += String(chunk);
  });
  child.stderr?.on('data', (chunk) => {
    errors += String(chunk);
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  t.is(code, 0, `${errors}${log.lines.join('\n')}`);
  return { disk, borrowed, waits: (JSON.parse(output) as { waits: number }).waits };
}

/** What the disk must hold then, and how much of it was all in guest RAM. */
function expected(seed: number): { bytes: Buffer; inRam: number } {
  const sources = [Buffer.alloc(RAM_BYTES), Buffer.alloc(RAM_BYTES)] as const;
  fillRam(sources[0], seed);
  fill(sources[1], seed + 1);
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
