/**
 * A protected pair in the lab for one test, gone afterwards however the test ends. What the agents
 * and the guest's console said is printed when it fails.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import type { ClientName, ClientReports } from '../../scripts/clients/client.js';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { ClientProcess } from '../../scripts/harness/client-process.js';
import type { GuestControl } from '../../scripts/harness/guest-control.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { GUEST_ADDRESS, GUEST_ADDRESS_6, type HostName } from '../../scripts/harness/lab.js';
import { PairLab, type PairOptions } from '../../scripts/harness/pair-lab.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const LOG_TAIL_LINES = 40;
/** A machine that is busy with other things must not look like a lost peer. */
const PATIENT = ['--peer-timeout', '3s'];

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
  return pair.control();
}

/** The control socket of a host's agent. */
export function socketPath(pair: PairLab, host: HostName): string {
  return pair.socketPath(host);
}

async function printLogs(t: ExecutionContext, pair: PairLab): Promise<void> {
  for (const host of ['hosta', 'hostb'] as const) {
    const text = await readFile(pair.logPath(host), 'utf8').catch(() => '(no log)');
    t.log(`${host}:\n${text.trim().split('\n').slice(-LOG_TAIL_LINES).join('\n')}`);
  }
}
