/**
 * A protected pair in the lab for one test, gone afterwards however the test ends. What the agents
 * and the guest's console said is printed when it fails.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import type { ClientName, ClientReports } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { ClientProcess } from '../../scripts/harness/client-process.js';
import { GuestControl } from '../../scripts/harness/guest-control.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { GUEST_ADDRESS, GUEST_ADDRESS_6, type HostName } from '../../scripts/harness/lab.js';
import { PairLab, type PairOptions } from '../../scripts/harness/pair-lab.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const LOG_TAIL_LINES = 40;
/** A machine that is busy with other things must not look like a lost peer. */
const PATIENT = ['--peer-timeout', '3s'];

const SUCCESSES_DEADLINE_MS = 60_000;
const POLL_MS = 20;
/** What a rate counts may have happened so long before it. */
const RATE_EVERY_US = 100_000;

/** Options of a pair that a test may choose; the rest is as in the demo. */
export type TestPairOptions = Partial<Omit<PairOptions, 'root' | 'guest'>> & {
  /** What the lab needs before the agents start. */
  readonly before?: (pair: PairLab, cleanup: Cleanup) => Promise<void>;
};

/** Brings a pair up to protection with its guest serving, runs `body`, takes everything down. */
export async function withPair(
  t: ExecutionContext,
  options: TestPairOptions,
  body: (pair: PairLab) => Promise<void>,
): Promise<void> {
  await withPairLab(t, options, async (pair) => {
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitProtected();
    await pair.waitGuest();
    await body(pair);
  });
}

/** Brings the lab up without any agent, runs `body`, takes everything down. */
export async function withPairLab(
  t: ExecutionContext,
  options: TestPairOptions,
  body: (pair: PairLab) => Promise<void>,
): Promise<void> {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  let pair: PairLab | undefined;
  try {
    const guest = await guestFiles(ROOT);
    const primaryFlags = [...PATIENT, ...(options.primaryFlags ?? [])];
    const secondaryFlags = [...PATIENT, ...(options.secondaryFlags ?? [])];
    const defaults = { root: ROOT, guest, memoryMib: 256, periodMs: 200 };
    pair = await PairLab.up({ ...defaults, ...options, primaryFlags, secondaryFlags }, cleanup);
    await options.before?.(pair, cleanup);
    await body(pair);
  } catch (error) {
    if (pair !== undefined) await printLogs(t, pair);
    throw error;
  } finally {
    await cleanup.run();
    stopListening();
  }
}

/** What loads the guest: by default HTTP fetches, redis writes and a stream of lines. */
export function startClients(
  pair: PairLab,
  options: { clients?: readonly ClientName[]; args?: readonly string[] } = {},
): Promise<ClientProcess> {
  return ClientProcess.start({
    enter: pair.lab.client.enter,
    buildDir: pair.buildDir,
    target: GUEST_ADDRESS,
    logPath: join(pair.directory, 'clients.log'),
    ...(options.clients === undefined ? {} : { clients: options.clients }),
    args: ['--target6', GUEST_ADDRESS_6, ...(options.args ?? [])],
  });
}

/** Waits until each of the clients had so many successes after `afterUs`. */
export async function waitSuccesses(
  clients: ClientProcess,
  wanted: { names: readonly ClientName[]; afterUs: number; count: number },
): Promise<void> {
  const untilUs = nowUs() + SUCCESSES_DEADLINE_MS * 1000;
  for (;;) {
    const rates = clients.rates.filter(({ atUs }) => atUs - RATE_EVERY_US > wanted.afterUs);
    const sums = wanted.names.map((name) => [name, sum(rates.map((rate) => rate[name]))] as const);
    const lacking = sums.filter(([, count]) => count < wanted.count);
    if (lacking.length === 0) return;
    if (nowUs() > untilUs) throw new Error(`Too few successes: ${lacking.join(' ')}`);
    await delay(POLL_MS);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** No connection and no acknowledged write was lost, nothing was wrong or contradicted. */
export function assertNothingLost(t: ExecutionContext, reports: ClientReports): void {
  const { http, redis, stream, accepted, dialled, random } = reports;
  for (const report of [http, redis, stream]) t.is(report?.connectionsLost, 0);
  t.is(redis?.acknowledgedLost, 0);
  t.like(stream, { missing: 0, repeats: 0, malformed: 0 });
  t.like(accepted, { dead: 0, wrong: 0 });
  t.like(dialled, { dead: 0, wrong: 0, controlsLost: 0 });
  t.like(dialled?.guest, { wrong: 0, broken: 0, failed: 0 });
  if (random !== undefined) t.like(random, { contradictions: 0, stray: 0 });
}

/** A connection to the guest's control port. */
export function controlGuest(pair: PairLab): GuestControl {
  return new GuestControl({
    enter: pair.lab.client.enter,
    buildDir: pair.buildDir,
    host: GUEST_ADDRESS,
    logPath: join(pair.directory, 'guest-control.log'),
  });
}

/** The control socket of a host's agent. */
export function socketPath(pair: PairLab, host: HostName): string {
  return join(pair.directory, host, 'run', 'control.sock');
}

async function printLogs(t: ExecutionContext, pair: PairLab): Promise<void> {
  for (const host of ['hosta', 'hostb'] as const) {
    const text = await readFile(pair.logPath(host), 'utf8').catch(() => '(no log)');
    t.log(`${host}:\n${text.trim().split('\n').slice(-LOG_TAIL_LINES).join('\n')}`);
  }
}
