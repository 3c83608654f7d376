/**
 * The lab of scripts/lab as objects: namespaces for both hosts and the client, joined by a LAN
 * bridge and a replication link. Only what runs inside these namespaces is ever signalled.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './child.js';
import type { Cleanup } from './cleanup.js';

/** Address of the protected guest on the LAN. */
export const GUEST_ADDRESS = '10.77.0.10';
export const GUEST_ADDRESS_6 = 'fd77::10';
/** MAC of the protected guest. */
export const GUEST_MAC = '52:54:00:c0:10:01';
/** The hosts' addresses on the replication link. */
export const REPLICATION_ADDRESS = { hosta: '10.88.0.1', hostb: '10.88.0.2' } as const;
/** The LAN bridge inside each host's namespace. */
export const BRIDGE = 'br0';

export type HostName = 'hosta' | 'hostb';

/** One network namespace of the lab. */
export class Namespace {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  /** What stands before a command to run it in here. */
  get enter(): readonly string[] {
    return ['ip', 'netns', 'exec', this.name];
  }

  /** Of everything that runs in here; nothing once the namespace is gone. */
  async pids(): Promise<number[]> {
    if (!existsSync(`/run/netns/${this.name}`)) return [];
    const text = await run(['ip', 'netns', 'pids', this.name]);
    return text.split('\n').filter(Boolean).map(Number);
  }

  /** SIGKILL for every process in here, again until there is none; returns how many there were. */
  async killAll(): Promise<number> {
    let killed = 0;
    for (;;) {
      const pids = await this.pids();
      if (pids.length === 0) return killed;
      killed += signalAll(pids, 'SIGKILL');
    }
  }
}

/** The whole lab. */
export class Lab {
  readonly hosta: Namespace;
  readonly hostb: Namespace;
  readonly client: Namespace;
  /** The bridge between them, with a port `p-HOST` for each. */
  readonly lan: Namespace;

  private constructor(id: string) {
    this.hosta = new Namespace(`colo-${id}-hosta`);
    this.hostb = new Namespace(`colo-${id}-hostb`);
    this.client = new Namespace(`colo-${id}-client`);
    this.lan = new Namespace(`colo-${id}-lan`);
  }

  /**
   * Creates a lab of its own, beside any others; the cleanup ends what still runs in it and removes
   * it. `root` is the source tree.
   */
  static async up(root: string, cleanup: Cleanup): Promise<Lab> {
    const script = join(root, 'scripts/lab');
    const id = randomBytes(4).toString('hex');
    const up = run([script, 'up', '--id', id, '--owner', String(process.pid)]);
    cleanup.add('lab', async () => {
      await up.catch(() => {});
      await run([script, 'down', '--id', id]);
    });
    await up;
    return new Lab(id);
  }
}

/** Signals processes at once; those that are gone already are not counted. */
export function signalAll(pids: readonly number[], signal: NodeJS.Signals): number {
  let reached = 0;
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
      reached++;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
  return reached;
}

/** The name of a process' program; empty when it is gone. */
export function programOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'latin1').trim();
  } catch {
    return '';
  }
}
