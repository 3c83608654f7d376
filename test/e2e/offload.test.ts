/**
 * The guest's NIC on the way through the agents: frames longer than the MTU allows on a wire, on the
 * first host and, with the offloads that came with the device state, on the second; and none lost
 * when the guest sends faster than the agent reads.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
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

/** Twice what the socket to the agent holds. */
const FLOOD_DATAGRAMS = 20_000;
const FLOOD = `perl -MSocket -e '
  socket(S, PF_INET, SOCK_DGRAM, 0);
  $to = sockaddr_in(9, inet_aton("10.77.0.1"));
  send(S, "x" x 1000, 0, $to) for 1..${FLOOD_DATAGRAMS}'`.replaceAll('\n', '');
const FLOOD_BEGUN = 100;
const STANDSTILL_MS = 1000;

interface Traffic {
  readonly packets: number;
  readonly bytes: number;
}

test('TCP crosses the agents unsegmented, and nothing is lost on the way', async (t) => {
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
    const { sent, left } = await flood(pair, guest);
    t.log(`hostb: the guest sent ${sent} frames, and ${left} left its host`);
    // The figures are not read at the same moment; the connection that asks for them talks, too.
    t.true(sent >= FLOOD_DATAGRAMS);
    t.true(Math.abs(sent - left) < FLOOD_DATAGRAMS / 100);
    guest.close();
  });
});

/** The guest sends, and is made to wait because the agent on hostb stands still for a while. */
async function flood(pair: PairLab, guest: GuestControl): Promise<{ sent: number; left: number }> {
  const sentBefore = (await traffic(guest, 'tx')).packets;
  const leftBefore = await framesFromAgent(pair);
  const flooding = guest.exec(FLOOD);
  while ((await framesFromAgent(pair)) < leftBefore + FLOOD_BEGUN);
  pair.signalAgent('hostb', 'SIGSTOP');
  await delay(STANDSTILL_MS);
  pair.signalAgent('hostb', 'SIGCONT');
  await flooding;
  const sent = (await traffic(guest, 'tx')).packets - sentBefore;
  return { sent, left: (await framesFromAgent(pair)) - leftBefore };
}

/** What the agent on hostb has written to its TAP. */
async function framesFromAgent(pair: PairLab): Promise<number> {
  const command = [...pair.lab.hostb.enter, 'ip', '-json', '-stats', 'link', 'show', 'tap0'];
  const [link] = JSON.parse(await run(command)) as { stats64: { rx: { packets: number } } }[];
  return link?.stats64.rx.packets ?? Number.NaN;
}

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
