/**
 * A guest that has taken over needs its memory once, whatever it writes: what the RAM file had
 * under its own copies is given back.
 */
import { stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { callAgent } from '../../scripts/harness/agent-control.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { MOUNT_NOISE, makeNoise, NOISE } from './guest-noise.js';
import { controlGuest, socketPath, withPair } from './pair-harness.js';
import { ramFiles } from './ram-files.js';

const MIB = 1024 ** 2;
const MEMORY_MIB = 256;
const NOISE_BYTES = 80 * MIB;
/** Of what was written anew: the rest may be still to be looked at. */
const FREED_MIN = 0.9;
const LOOK_MS = 100;
/** Two minutes of them. */
const LOOKS = 1200;
const BLOCK_BYTES = 512;

test('what a promoted guest writes does not cost its host memory twice', async (t) => {
  await withPair(t, { memoryMib: MEMORY_MIB, periodMs: 1000, mode: 'colo' }, async (pair) => {
    const control = controlGuest(pair);
    await control.exec(MOUNT_NOISE);
    await control.exec(makeNoise(NOISE_BYTES, 'before'));
    await callAgent(socketPath(pair, 'hosta'), { command: 'switchover', arguments: {} });
    await pair.waitProtected(undefined, 'hostb');
    const before = await fileBytes(pair);
    await control.exec(rewrite(NOISE_BYTES, 'before'));
    const wanted = before - FREED_MIN * NOISE_BYTES;
    let after = await fileBytes(pair);
    for (let looks = 0; looks < LOOKS && after > wanted; looks += 1) {
      await delay(LOOK_MS);
      after = await fileBytes(pair);
    }
    t.log(`RAM file: ${Math.round(before / MIB)} MiB before, ${Math.round(after / MIB)} after`);
    t.true(after <= wanted);
    // It is the same guest still.
    t.is((await control.exec(`wc -c < ${NOISE}/before`)).trim(), `${NOISE_BYTES}`);
    control.close();
  });
});

/** The same pages of the guest's memory, with other content. */
function rewrite(bytes: number, name: string): string {
  const mib = Math.ceil(bytes / MIB);
  return `dd if=/dev/urandom of=${NOISE}/${name} bs=1M count=${mib} conv=notrunc 2>/dev/null`;
}

/** What the RAM file of the guest at the second host has in memory. */
async function fileBytes(pair: PairLab): Promise<number> {
  const [path] = await ramFiles(pair, 'hostb');
  if (path === undefined) throw new Error('The guest has no RAM file');
  return (await stat(path)).blocks * BLOCK_BYTES;
}
