/**
 * Broken bytes on every listening socket of a running pair: each connection is dropped with one log
 * line, memory stays bounded, and nobody else notices.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { run } from '../../scripts/harness/child.js';
import { type HostName, programOf, REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { socketPath, startClients, withPair } from './pair-harness.js';

const CONNECTIONS = 12;
/**
 * What a round may leave behind. A heap that waits for its next collection is up to 60 MiB larger
 * than after the last one, so more than one round may have to show it; a leak is seen in all.
 */
const GROWTH_BYTES_MAX = 32 * 1024 * 1024;
const ROUNDS_MAX = 4;
const HOSTS = ['hosta', 'hostb'] as const;
const LOG_DEADLINE_MS = 30_000;
const REPLICATION_PORT = 7800;

interface Target {
  readonly name: string;
  readonly host: HostName;
  /** Arguments of garbage.js behind kind and count. */
  readonly address: readonly string[];
  readonly kind: 'transport' | 'nbd' | 'control';
}

test('broken bytes on every listening socket disturb nobody', async (t) => {
  await withPair(t, {}, async (pair) => {
    const clients = await startClients(pair);
    const { failed: failedBefore } = (await pair.status('hosta')).checkpoints;
    // The first time heaps and buffers grow to the size that such work needs.
    await attackAll(t, pair);
    const before = await memoryBytes(pair);
    const leastGrowth = { hosta: Number.POSITIVE_INFINITY, hostb: Number.POSITIVE_INFINITY };
    for (let round = 0; round < ROUNDS_MAX && growsStill(leastGrowth); round++) {
      await attackAll(t, pair);
      const after = await memoryBytes(pair);
      for (const host of HOSTS) {
        const growth = after[host] - before[host];
        t.log(`${host} grew by ${Math.round(growth / 1024)} KiB`);
        leastGrowth[host] = Math.min(leastGrowth[host], growth);
      }
    }
    t.false(growsStill(leastGrowth), 'memory grows with each round of broken bytes');
    const { checkpoints, lastFailure } = await pair.waitProtected();
    t.is(checkpoints.failed, failedBefore, lastFailure ?? '');
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
    const reports = await clients.stop();
    t.is(reports.redis?.acknowledgedLost, 0);
    t.like(reports.stream, { missing: 0, repeats: 0 });
  });
});

async function targets(pair: PairLab): Promise<Target[]> {
  const found: Target[] = [
    {
      name: 'replication port',
      host: 'hostb',
      address: [REPLICATION_ADDRESS.hostb, String(REPLICATION_PORT)],
      kind: 'transport',
    },
    {
      name: 'probe port',
      host: 'hosta',
      address: [REPLICATION_ADDRESS.hosta, await listeningPort(pair)],
      kind: 'transport',
    },
  ];
  for (const host of HOSTS) {
    found.push({
      name: 'control socket',
      host,
      address: [socketPath(pair, host)],
      kind: 'control',
    });
    const directory = join(pair.directory, host, 'run');
    const runtime = readdirSync(directory).find((name) => /^demo\.\d+$/.test(name)) ?? '';
    found.push({
      name: 'NBD socket',
      host,
      address: [join(directory, runtime, 'disk-0')],
      kind: 'nbd',
    });
  }
  return found;
}

async function attackAll(t: ExecutionContext, pair: PairLab): Promise<void> {
  for (const target of await targets(pair)) await attackOne(t, pair, target);
}

/** True also if a figure could not be read. */
function growsStill(leastGrowth: Readonly<Record<HostName, number>>): boolean {
  return HOSTS.some((host) => !(leastGrowth[host] < GROWTH_BYTES_MAX));
}

async function attackOne(t: ExecutionContext, pair: PairLab, target: Target): Promise<void> {
  const { name, host, kind, address } = target;
  const linesBefore = dropLines(pair, host);
  const from = host === 'hosta' ? pair.lab.hostb : pair.lab.hosta;
  const garbage = join(pair.buildDir, 'test/e2e/garbage.js');
  const closed = await run([
    ...from.enter,
    ...[process.execPath, garbage, kind, String(CONNECTIONS), ...address],
  ]);
  t.is(Number(closed), CONNECTIONS, `${host} ${name}`);
  const untilMs = performance.now() + LOG_DEADLINE_MS;
  while (dropLines(pair, host) < linesBefore + CONNECTIONS && performance.now() < untilMs) {
    await delay(20);
  }
  t.is(dropLines(pair, host) - linesBefore, CONNECTIONS, `${host} ${name}: one line each`);
}

/** Log lines that tell of a dropped connection. */
function dropLines(pair: PairLab, host: HostName): number {
  const lines = readFileSync(pair.logPath(host), 'utf8').split('\n');
  return lines.filter((line) => / warn .*[Dd]ropped/.test(line)).length;
}

/** The port on which the primary answers probes: the only one that it listens on. */
async function listeningPort(pair: PairLab): Promise<string> {
  const table = await run([...pair.lab.hosta.enter, 'ss', '-Hltn']);
  const ports = [...table.matchAll(/:(\d+)\s+\S+:\*/g)].map((match) => match[1] ?? '');
  if (ports.length !== 1) throw new Error(`hosta listens on ports ${ports.join(', ')}`);
  return ports[0] ?? '';
}

async function memoryBytes(pair: PairLab): Promise<Record<HostName, number>> {
  const bytes = { hosta: Number.NaN, hostb: Number.NaN };
  for (const host of HOSTS) {
    const pids = (await pair.lab[host].pids()).filter((pid) => programOf(pid) === 'node');
    const status = readFileSync(`/proc/${pids[0]}/status`, 'utf8');
    bytes[host] = Number(/RssAnon:\s+(\d+) kB/.exec(status)?.[1] ?? Number.NaN) * 1024;
  }
  return bytes;
}
