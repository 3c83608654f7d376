/**
 * Segmentation offload on the way through the agents: the guest sends and receives frames longer
 * than its MTU allows on a wire, on the first host and, with the offloads that came with the device
 * state, on the second.
 */
import { join } from 'node:path';
import test from 'ava';
import { run } from '../../scripts/harness/child.js';
import type { GuestControl } from '../../scripts/harness/guest-control.js';
import { GUEST_ADDRESS } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { controlGuest, withPair } from './pair-harness.js';

const MTU_FRAME_BYTES = 1514;
/** 1 MiB of nginx. */
const DOWNLOAD = `fetch('http://${GUEST_ADDRESS}/file').then((answer) => answer.arrayBuffer())`;
const DEADLINE_MS = 60_000;

interface Traffic {
  readonly packets: number;
  readonly bytes: number;
}

test('TCP crosses the agents unsegmented, before and after a failover', async (t) => {
  await withPair(t, {}, async (pair) => {
    const guest = controlGuest(pair);
    for (const host of ['hosta', 'hostb'] as const) {
      const sent = await frameBytes(guest, 'tx', () => client(pair, ['-e', DOWNLOAD]));
      const received = await frameBytes(guest, 'rx', () => upload(pair));
      t.log(`${host}: the guest sent frames of ${sent} bytes and got some of ${received}`);
      t.true(sent > MTU_FRAME_BYTES);
      t.true(received > MTU_FRAME_BYTES);
      if (host === 'hostb') break;
      await pair.kill('hosta');
      await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    }
    guest.close();
  });
});

/** The mean length of what the guest's driver handled while `work` ran. */
async function frameBytes(
  guest: GuestControl,
  direction: 'tx' | 'rx',
  work: () => Promise<void>,
): Promise<number> {
  const before = await traffic(guest, direction);
  await work();
  const after = await traffic(guest, direction);
  return Math.round((after.bytes - before.bytes) / (after.packets - before.packets));
}

async function traffic(guest: GuestControl, direction: 'tx' | 'rx'): Promise<Traffic> {
  const directory = '/sys/class/net/eth0/statistics';
  const text = await guest.exec(`cd ${directory}; cat ${direction}_packets ${direction}_bytes`);
  const [packets, bytes] = text.trim().split('\n').map(Number);
  return { packets: packets ?? Number.NaN, bytes: bytes ?? Number.NaN };
}

async function upload(pair: PairLab): Promise<void> {
  const worker = join(pair.buildDir, 'scripts/bench/worker.js');
  await client(pair, [worker, 'upload', GUEST_ADDRESS, '1', '1']);
}

async function client(pair: PairLab, program: readonly string[]): Promise<void> {
  const command = [...pair.lab.client.enter, process.execPath, ...program];
  await run(command, { deadlineMs: DEADLINE_MS });
}
