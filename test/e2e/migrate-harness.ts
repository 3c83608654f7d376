/** A guest that is not protected, and a second host that would take it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import { type HostName, programOf, REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { socketPath, type TestPairOptions, withPairLab } from './pair-harness.js';

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
