/**
 * A host that becomes the secondary again has most of the guest's memory still, and gets what
 * differs. Each checkpoint's RAM is compared by its digest. COLO_KEPT_MIB gives it another size.
 */
import { open, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { type AgentStatus, callAgent } from '../../scripts/harness/agent-control.js';
import type { HostName } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { MOUNT_NOISE, makeNoise, SUM_NOISE } from './guest-noise.js';
import { controlGuest, socketPath, startClients, withPair } from './pair-harness.js';
import { ramFiles } from './ram-files.js';

const MIB = 1024 ** 2;
const MEMORY_MIB = Number(process.env['COLO_KEPT_MIB'] ?? '256');
/** Of the guest's memory: what is written before, beside what it uses itself. */
const USED = 0.35;
/** While it has no secondary. */
const CHANGED = 0.05;
/** Of what a full synchronisation has sent. */
const SENT_MAX = 0.25;
const PAGE_BYTES = 4096;
const SUCCESSES = 5;
const CHECKPOINTS = 5;
const LOOK_MS = 50;
/** A minute of them. */
const LOOKS = 1200;

interface Way {
  readonly name: string;
  /** What makes a secondary of a host that had the guest; gives the host that serves then. */
  readonly leave: (pair: PairLab) => Promise<HostName>;
}

const WAYS: readonly Way[] = [
  { name: 'a secondary that was detached', leave: async () => 'hosta' },
  { name: 'a primary after a switch-over', leave: (pair) => switchOver(pair, 'hosta', 'hostb') },
  {
    name: 'a promoted guest after the switch-over back',
    leave: async (pair) => {
      await switchOver(pair, 'hosta', 'hostb');
      return await switchOver(pair, 'hostb', 'hosta');
    },
  },
  {
    name: 'a primary whose QEMU has died',
    leave: async (pair) => {
      await pair.signalQemu('hosta', 'SIGKILL');
      return await changed(pair, 'hostb');
    },
  },
];

for (const { name, leave } of WAYS) {
  test.serial(`only what differs is sent to ${name}`, async (t) => {
    await withNoise(t, async (pair, full) => {
      const clients = await startClients(pair, { clients: ['redis'] });
      await clients.waitSuccesses({ names: ['redis'], afterUs: 0, count: SUCCESSES });
      const serving = await leave(pair);
      await alone(pair, serving);
      const control = controlGuest(pair);
      await control.exec(makeNoise(CHANGED * MEMORY_MIB * MIB, 'changed'));
      const before = await control.exec(SUM_NOISE);
      const again = await together(pair, serving);
      tell(t, { full, again });
      t.true(again.ramSentBytes <= SENT_MAX * full.ramSentBytes, 'it was sent as a whole');
      t.true(again.ramKeptBytes >= USED * MEMORY_MIB * MIB);
      t.is(await control.exec(SUM_NOISE), before);
      control.close();
      const reports = await clients.stop();
      t.is(reports.redis?.acknowledgedLost, 0);
      await assertEqual(t, pair, serving);
    });
  });
}

test.serial('pages that are broken in the memory that was kept are sent again', async (t) => {
  await withNoise(t, async (pair) => {
    await alone(pair, 'hosta');
    const broken = await breakKeptRam(pair, 'hostb');
    t.true(broken > 0);
    const again = await together(pair, 'hosta');
    t.log(`${broken} pages were broken, ${again.ramSentBytes} bytes sent`);
    t.true(again.ramSentBytes >= broken * PAGE_BYTES, 'they count as kept');
    t.true(again.ramKeptBytes > 0);
    await assertEqual(t, pair, 'hosta');
  });
});

test.serial('with keep-ram = off nothing is kept', async (t) => {
  const secondaryFlags = ['--keep-ram', 'off'];
  await withNoise(
    t,
    async (pair, full) => {
      await alone(pair, 'hosta');
      t.deepEqual(await keptRamFiles(pair, 'hostb', 0), []);
      const again = await together(pair, 'hosta');
      t.is(again.ramKeptBytes, 0);
      t.true(again.ramSentBytes > SENT_MAX * full.ramSentBytes);
      await assertEqual(t, pair, 'hosta');
    },
    secondaryFlags,
  );
});

type LastSync = NonNullable<AgentStatus['lastSync']>;

/** A protected pair whose guest uses its memory; `body` gets what the full way has sent. */
async function withNoise(
  t: ExecutionContext,
  body: (pair: PairLab, full: LastSync) => Promise<void>,
  secondaryFlags: readonly string[] = [],
): Promise<void> {
  const options = { memoryMib: MEMORY_MIB, periodMs: 1000, primaryFlags: ['--verify'] };
  await withPair(t, { ...options, secondaryFlags, mode: 'colo' }, async (pair) => {
    const control = controlGuest(pair);
    await control.exec(MOUNT_NOISE);
    await control.exec(makeNoise(USED * MEMORY_MIB * MIB, 'before'));
    control.close();
    // The agent that holds nothing of the guest is what a full synchronisation is measured by.
    await pair.kill('hostb');
    await pair.waitStatus('hosta', 'it is alone', ({ phase }) => phase === 'alone');
    await pair.restart('hostb');
    const full = await protectedAgain(pair, 'hosta');
    t.is(full.ramKeptBytes, 0);
    await body(pair, full);
  });
}

async function switchOver(pair: PairLab, from: HostName, to: HostName): Promise<HostName> {
  await callAgent(socketPath(pair, from), { command: 'switchover', arguments: {} });
  return await changed(pair, to);
}

/** Protected by the host that has had the guest, and has not got its memory anew. */
async function changed(pair: PairLab, serving: HostName): Promise<HostName> {
  await pair.waitStatus(serving, 'it has the guest', ({ role, lastSync }) => {
    return role === 'primary' && lastSync !== null;
  });
  const { ramKeptBytes } = await protectedAgain(pair, serving);
  if (ramKeptBytes >= USED * MEMORY_MIB * MIB) return serving;
  throw new Error(`Only ${ramKeptBytes} bytes were kept`);
}

/** The guest has no secondary until `together`. */
async function alone(pair: PairLab, serving: HostName): Promise<void> {
  await callAgent(socketPath(pair, serving), { command: 'detach', arguments: {} });
  await pair.waitStatus(serving, 'it is alone', ({ phase }) => phase === 'alone');
}

async function together(pair: PairLab, serving: HostName): Promise<LastSync> {
  await callAgent(socketPath(pair, serving), { command: 'attach', arguments: {} });
  return await protectedAgain(pair, serving);
}

async function protectedAgain(pair: PairLab, serving: HostName): Promise<LastSync> {
  const { lastSync } = await pair.waitProtected(undefined, serving);
  if (lastSync === null) throw new Error(`${serving} does not say what it has sent`);
  return lastSync;
}

/** A digest that differs makes the secondary unfit, which is a failed checkpoint here. */
async function assertEqual(t: ExecutionContext, pair: PairLab, serving: HostName): Promise<void> {
  const other = serving === 'hosta' ? 'hostb' : 'hosta';
  const { checkpoints } = await pair.status(serving);
  const wanted = checkpoints.total + CHECKPOINTS;
  const after = await pair.waitStatus(serving, 'more checkpoints are made', (status) => {
    return status.checkpoints.failed > checkpoints.failed || status.checkpoints.total >= wanted;
  });
  t.is(after.checkpoints.failed, checkpoints.failed, after.lastFailure ?? '');
  t.true((await pair.status(other)).verified >= CHECKPOINTS);
}

function tell(t: ExecutionContext, ways: Readonly<Record<string, LastSync>>): void {
  for (const [name, { ramSentBytes, ramKeptBytes, durationMs }] of Object.entries(ways)) {
    const [sent, kept] = [ramSentBytes, ramKeptBytes].map((bytes) => Math.round(bytes / MIB));
    t.log(`${name}: ${sent} MiB sent, ${kept} MiB kept, ${durationMs} ms`);
  }
}

/** By way of its open files what a host has of a guest, once that is so many, and QEMU is gone. */
async function keptRamFiles(pair: PairLab, host: HostName, count: number): Promise<string[]> {
  for (let looks = 0; looks < LOOKS; looks += 1) {
    const found = await ramFiles(pair, host);
    if (found.length === count) return found;
    await delay(LOOK_MS);
  }
  const log = await readFile(pair.logPath(host), 'utf8');
  throw new Error(`${host} does not come to ${count} memory files: ${log.slice(-2000)}`);
}

/** Turns a bit in each page of the guest's noise that is found there; gives how many. */
async function breakKeptRam(pair: PairLab, host: HostName): Promise<number> {
  const [path] = await keptRamFiles(pair, host, 1);
  const file = await open(path ?? '', 'r+');
  let broken = 0;
  try {
    const page = Buffer.alloc(PAGE_BYTES);
    // The last quarter: the guest fills its memory from the end.
    for (let at = 0.75 * MEMORY_MIB * MIB; at < MEMORY_MIB * MIB; at += PAGE_BYTES) {
      await file.read(page, 0, PAGE_BYTES, at);
      if (page.every((byte) => byte === 0)) continue;
      page[broken % PAGE_BYTES] = (page[broken % PAGE_BYTES] ?? 0) ^ 0x10;
      await file.write(page, 0, PAGE_BYTES, at);
      broken += 1;
    }
  } finally {
    await file.close();
  }
  return broken;
}
