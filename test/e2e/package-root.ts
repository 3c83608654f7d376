/**
 * A clean Debian with the package in it, and two hosts of the lab that run from it: each has its
 * own /etc/colo, /run/colo and /var/lib/colo. Nothing is mounted outside of the namespaces that
 * commands run in.
 */
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child, run } from '../../scripts/harness/child.js';
import type { Cleanup } from '../../scripts/harness/cleanup.js';
import type { HostName, Lab } from '../../scripts/harness/lab.js';
import { ROOT } from './lab-harness.js';

const BUILD_DEADLINE_MS = 600_000;
const INSTALL_DEADLINE_MS = 120_000;
/** Only these: what this machine's environment says is not what a fresh host's does. */
const ENVIRONMENT = [
  ...['env', '-i', 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
  ...['HOME=/root', 'LC_ALL=C.UTF-8', 'DEBIAN_FRONTEND=noninteractive'],
];

export class PackageRoot {
  /** Of the root's own `/`. */
  readonly path: string;
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
    this.path = join(directory, 'root');
  }

  /** Unpacks the root; the package is not in it yet. */
  static async create(cleanup: Cleanup): Promise<PackageRoot> {
    const build = [join(ROOT, 'scripts/build-root')];
    const archive = (await run(build, { deadlineMs: BUILD_DEADLINE_MS, stderr: 'inherit' })).trim();
    const root = new PackageRoot(await mkdtemp(join(tmpdir(), 'colo-package-')));
    cleanup.add('package root', () => rm(root.directory, { recursive: true, force: true }));
    await mkdir(root.path);
    await run(['tar', '-C', root.path, '-xf', archive], { deadlineMs: INSTALL_DEADLINE_MS });
    return root;
  }

  /** Builds the package into the root's /tmp and returns its path there. */
  async build(): Promise<string> {
    const command = [join(ROOT, 'scripts/build-deb'), join(this.path, 'tmp')];
    const path = (await run(command, { deadlineMs: BUILD_DEADLINE_MS })).trim();
    return path.slice(this.path.length);
  }

  /** A shell command in the root; rejects with what it said unless it exits with 0. */
  sh(script: string): Promise<string> {
    const command = this.#enter([], ['sh', '-c', script]);
    return run(command, { deadlineMs: INSTALL_DEADLINE_MS });
  }

  /** `ExecStart` of a unit, for one VM. */
  async commandOf(unit: string, vm: string): Promise<string[]> {
    const text = await readFile(join(this.path, 'usr/lib/systemd/system', unit), 'utf8');
    const command = /^ExecStart=(.*)$/m.exec(text)?.[1] ?? '';
    return command.replaceAll('%i', vm).split(' ');
  }

  /** One of the lab's hosts, with this root as its system. */
  async host(lab: Lab, name: HostName, readable: readonly string[]): Promise<PackageHost> {
    const directory = join(this.directory, name);
    for (const folder of ['etc', 'run', 'lib'])
      await mkdir(join(directory, folder), { recursive: true });
    return new PackageHost(directory, (command) => {
      const mounts = [
        ...[
          [join(directory, 'etc'), '/etc/colo'],
          [join(directory, 'run'), '/run/colo'],
        ],
        ...[[join(directory, 'lib'), '/var/lib/colo'], ...readable.map((path) => [path, path])],
      ] as [string, string][];
      return [...lab[name].enter, ...this.#enter(mounts, command)];
    });
  }

  /** In a mount namespace of its own; each step execs the next, so that signals arrive. */
  #enter(mounts: readonly [string, string][], command: readonly string[]): string[] {
    const script = [
      'set -e; root=$1; shift',
      'mount -t proc proc "$root/proc"; mount -t sysfs sysfs "$root/sys"; mount --rbind /dev "$root/dev"',
      'while [ "$1" != -- ]; do mkdir -p "$root$2"; mount --bind "$1" "$root$2"; shift 2; done; shift',
      'exec chroot "$root" "$@"',
    ].join('\n');
    const head = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, 'enter'];
    return [...head, this.path, ...mounts.flat(), '--', ...ENVIRONMENT, ...command];
  }
}

/** One host; its folders are seen from outside, its programs run inside. */
export class PackageHost {
  readonly directory: string;
  readonly #enter: (command: readonly string[]) => string[];

  constructor(directory: string, enter: (command: readonly string[]) => string[]) {
    this.directory = directory;
    this.#enter = enter;
  }

  /** Where NOTIFY_SOCKET is for the one who listens; see `start`. */
  get notifyPath(): string {
    return join(this.directory, 'run/notify');
  }

  get logPath(): string {
    return join(this.directory, 'log');
  }

  run(...command: readonly string[]): Promise<string> {
    return run(this.#enter(command));
  }

  /** As systemd would start it. */
  start(command: readonly string[], watchdogUs: number): Child {
    const env = ['env', 'NOTIFY_SOCKET=/run/colo/notify', `WATCHDOG_USEC=${watchdogUs}`];
    const name = command[0] ?? '';
    return new Child({ name, command: this.#enter([...env, ...command]), logPath: this.logPath });
  }
}
