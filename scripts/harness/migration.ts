/** What moves a guest that is not protected to a second host that would take it, in a PairLab. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type HostName, programOf, REPLICATION_ADDRESS } from './lab.js';
import type { PairLab } from './pair-lab.js';

/** Where nobody listens: the guest stays unprotected. */
export const NOBODY = `${REPLICATION_ADDRESS.hostb}:7999`;

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
  const argv = [program, ...args, '--socket', pair.socketPath(host)];
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
  const control = pair.control();
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

/** Something in guest memory that nobody but a fault changes. */
export class GuestPattern {
  readonly #pair: PairLab;
  readonly #sum: string;

  private constructor(pair: PairLab, sum: string) {
    this.#pair = pair;
    this.#sum = sum;
  }

  static async fill(pair: PairLab): Promise<GuestPattern> {
    const half = PATTERN_MIB / 2;
    const control = pair.control();
    try {
      await control.exec(`mkdir -p /mnt && mount -t tmpfs -o size=${PATTERN_MIB + 1}m none /mnt`);
      await control.exec(
        `(head -c ${half}M /dev/urandom; head -c ${half}M /dev/zero) > ${PATTERN}`,
      );
      return new GuestPattern(pair, await control.exec(`sha256sum ${PATTERN}`));
    } finally {
      control.close();
    }
  }

  /** Reads all of it; false if a byte is another one. Rejects if it is not there. */
  async isWhole(): Promise<boolean> {
    const control = this.#pair.control();
    try {
      return (await control.exec(`sha256sum ${PATTERN}`)) === this.#sum;
    } finally {
      control.close();
    }
  }
}
