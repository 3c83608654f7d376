/** A guest that is not protected, and a second host that would take it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import { type HostName, programOf, REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { controlGuest, socketPath, type TestPairOptions, withPairLab } from './pair-harness.js';

/** Where nobody listens: the guest stays unprotected. */
const NOBODY = `${REPLICATION_ADDRESS.hostb}:7999`;

/** hosta runs the guest, hostb waits; both go with `body`. */
export async function withMovable(
  t: ExecutionContext,
  options: TestPairOptions,
  body: (pair: PairLab) => Promise<void>,
): Promise<void> {
  const secondaryFlags = ['--peer', NOBODY, ...(options.secondaryFlags ?? [])];
  await withPairLab(t, { ...options, peer: NOBODY, secondaryFlags }, async (pair) => {
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitGuest();
    await body(pair);
  });
}

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs `colo migrate` on `from`. */
export function migrate(
  pair: PairLab,
  from: HostName,
  to: HostName,
  flags: readonly string[],
): Promise<Outcome> {
  return colo(pair, from, ['migrate', REPLICATION_ADDRESS[to], ...flags]);
}

/** Runs a command of `colo` for a host's agent. */
export function colo(pair: PairLab, host: HostName, args: readonly string[]): Promise<Outcome> {
  const program = join(pair.buildDir, 'src/cli/colo.js');
  const argv = [program, ...args, '--socket', socketPath(pair, host)];
  return new Promise((resolve) => {
    execFile(process.execPath, argv, (error, out, err) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, out, err });
    });
  });
}

/** The replication link of both hosts. */
export async function setLink(pair: PairLab, state: 'up' | 'down'): Promise<void> {
  const [ip, ...rest] = [...pair.lab.hosta.enter, 'ip', 'link', 'set', 'repl0', state];
  await promisify(execFile)(ip as string, rest);
}

/** True if an emulator runs on the host. */
export async function runsHere(pair: PairLab, host: HostName): Promise<boolean> {
  const pids = await pair.lab[host].pids();
  return pids.some((pid) => /^qemu/.test(programOf(pid)));
}

/** Ends every TCP connection of the replication link, as a firewall that forgets them would. */
export async function killConnections(pair: PairLab): Promise<void> {
  const [ip, ...enter] = pair.lab.hosta.enter;
  const filter = ['state', 'established', 'dst', REPLICATION_ADDRESS.hostb];
  const { stdout } = await promisify(execFile)(ip as string, [...enter, 'ss', '-HK', ...filter]);
  // A kernel that can't do it says nothing.
  if (stdout.trim() === '') throw new Error('No connection was killed (INET_DIAG_DESTROY)');
}

/** Commands that the guest is asked to find out who answers, and what counts as an answer. */
const ASKED = 20;
const ANSWERED_MIN = 10;

/** From which hosts frames come while the guest is spoken to, seen from the LAN. */
export async function speakers(pair: PairLab): Promise<HostName[]> {
  const hosts = ['hosta', 'hostb'] as const;
  const before = await Promise.all(hosts.map((host) => framesFrom(pair, host)));
  const control = controlGuest(pair);
  try {
    for (let asked = 0; asked < ASKED; asked += 1) await control.command('ping');
  } finally {
    control.close();
  }
  const after = await Promise.all(hosts.map((host) => framesFrom(pair, host)));
  return hosts.filter((_, at) => (after[at] ?? 0) - (before[at] ?? 0) >= ANSWERED_MIN);
}

async function framesFrom(pair: PairLab, host: HostName): Promise<number> {
  const [ip, ...enter] = pair.lab.lan.enter;
  const command = ['ip', '-json', '-statistics', 'link', 'show', `p-${host}`];
  const { stdout } = await promisify(execFile)(ip as string, [...enter, ...command]);
  return JSON.parse(stdout)[0].stats64.rx.packets;
}

/** Half of it random, half of it zeroes, in the guest's memory alone. */
const PATTERN = '/mnt/pattern';
const PATTERN_MIB = 32;

/** Fills guest memory; `check` reads all of it again, and compares. */
export async function fillMemory(
  pair: PairLab,
): Promise<{ check(t: ExecutionContext): Promise<void> }> {
  const half = PATTERN_MIB / 2;
  const control = controlGuest(pair);
  await control.exec(`mkdir -p /mnt && mount -t tmpfs -o size=${PATTERN_MIB + 1}m none /mnt`);
  await control.exec(`(head -c ${half}M /dev/urandom; head -c ${half}M /dev/zero) > ${PATTERN}`);
  const sum = await control.exec(`sha256sum ${PATTERN}`);
  control.close();
  return {
    check: async (t) => {
      const again = controlGuest(pair);
      t.is(await again.exec(`sha256sum ${PATTERN}`), sum);
      again.close();
    },
  };
}
