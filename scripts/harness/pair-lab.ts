/**
 * One protected guest in the lab: namespaces, both agents, the clients' place. Used by the demo,
 * the end-to-end tests and the bench.
 *
 *     const pair = await PairLab.up({ root, ... }, cleanup);   // cleanup undoes it all
 *     await pair.startSecondary(); await pair.startPrimary(); await pair.waitProtected();
 *     ... pair.kill('hosta') ...
 */
import { mkdtempSync } from 'node:fs';
import { mkdir, readFile, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { DiskPlace } from '../../src/migration/index.js';
import { nowUs } from '../clients/clock.js';
import { type AgentStatus, agentStatus, callAgent, isProtected } from './agent-control.js';
import { Child, run } from './child.js';
import { type Cleanup, withDeadline } from './cleanup.js';
import { GuestControl, waitGuest } from './guest-control.js';
import { copyImage, type GuestFiles } from './guest-files.js';
import {
  BRIDGE,
  GUEST_ADDRESS,
  GUEST_MAC,
  type HostName,
  Lab,
  programOf,
  REPLICATION_ADDRESS,
  signalAll,
} from './lab.js';
import { DEFAULT_MODE, type Mode } from './modes.js';

const SOCKET_DEADLINE_MS = 20_000;
/**
 * Boot under TCG takes up to 20 s, the full synchronisation some more; a busy machine doubles both.
 */
const PROTECTED_DEADLINE_MS = 120_000;
const POLL_MS = 20;

export interface PairOptions {
  /** The source tree. */
  readonly root: string;
  readonly guest: GuestFiles;
  readonly memoryMib: number;
  readonly periodMs: number;
  readonly mode?: Mode;
  readonly logLevel?: 'debug' | 'info';
  /** Where hosta's image is copied to; default: with its logs and sockets. */
  readonly imageDirectory?: string;
  /** Both hosts have the guest's disk, as one image. Default: `moved`, each has its own. */
  readonly disk?: DiskPlace;
  /** Where the primary looks for its secondary; default: hostb. */
  readonly peer?: string;
  /** How the hosts talk; with `tls` by certificates that `up` makes. Default: plain-trusted. */
  readonly security?: 'tls' | 'plain-trusted';
  /** More flags of colo-primary and colo-secondary. */
  readonly primaryFlags?: readonly string[];
  readonly secondaryFlags?: readonly string[];
}

interface KeptFiles {
  kept: 'none' | 'logs' | 'all';
}

export class PairLab {
  readonly lab: Lab;
  /** Logs, sockets and disks; deleted by the cleanup unless `keepFiles` says otherwise. */
  readonly directory: string;
  readonly buildDir: string;
  readonly #options: PairOptions;
  readonly #files: KeptFiles;
  readonly #agents = new Map<HostName, Child>();

  private constructor(
    lab: Lab,
    directory: { path: string; files: KeptFiles },
    options: PairOptions,
  ) {
    this.lab = lab;
    this.directory = directory.path;
    this.#files = directory.files;
    this.buildDir = join(options.root, 'build');
    this.#options = options;
  }

  /** Creates the directory, the namespaces and hosta's copy of the image. */
  static async up(options: PairOptions, cleanup: Cleanup): Promise<PairLab> {
    const directory = mkdtempSync('/tmp/colo-demo-');
    const files: KeptFiles = { kept: 'none' };
    cleanup.add('temporary files', () => removeFiles(directory, files.kept));
    const lab = await Lab.up(options.root, cleanup);
    const pair = new PairLab(lab, { path: directory, files }, options);
    cleanup.add('agents', () => pair.stopAgents());
    for (const host of ['hosta', 'hostb'] as const) {
      await mkdir(join(directory, host, 'run'), { recursive: true });
      await mkdir(join(directory, host, 'state'));
    }
    if (pair.#isShared) await pair.#makeShared();
    await copyImage(options.guest.image, pair.imagePath);
    if (options.security === 'tls') await pair.#makeCertificates();
    return pair;
  }

  /** Files stay after the cleanup, for the one who must find out what went wrong. */
  keepFiles(which: 'logs' | 'all'): void {
    this.#files.kept = which;
  }

  /** hosta's copy of the guest's disk. */
  get imagePath(): string {
    const own = join(this.directory, this.#isShared ? 'shared' : 'hosta');
    return join(this.#options.imageDirectory ?? own, 'root.img');
  }

  get #isShared(): boolean {
    return this.#options.disk === 'shared';
  }

  /** The storage that both hosts see, by a path of each. */
  async #makeShared(): Promise<void> {
    const directory = join(this.directory, 'shared');
    await mkdir(directory);
    await symlink(directory, join(this.directory, 'hostb', 'images'));
  }

  #diskFlags(host: HostName): string[] {
    if (!this.#isShared) return host === 'hosta' ? ['--disk', `root=${this.imagePath}`] : [];
    const there = join(this.directory, 'hostb', 'images', 'root.img');
    const path = host === 'hosta' ? this.imagePath : there;
    return ['--disk', `name=root,path=${path},shared=on`];
  }

  logPath(host: HostName): string {
    return join(this.directory, `${host}.log`);
  }

  async startSecondary(): Promise<void> {
    await this.#start('hostb', 'colo-secondary', [
      ...['--allow-peer', REPLICATION_ADDRESS.hosta],
      ...['--listen', REPLICATION_ADDRESS.hostb, '--nic', 'name=lan,tap=tap0'],
      ...this.#diskFlags('hostb'),
      ...(this.#options.secondaryFlags ?? []),
    ]);
  }

  /** hosta without a guest, waiting for one; what it has of the guest's disk it keeps. */
  async startWaiting(): Promise<void> {
    await this.#start('hosta', 'colo-secondary', [
      ...['--allow-peer', REPLICATION_ADDRESS.hostb, '--listen', REPLICATION_ADDRESS.hosta],
      ...['--nic', 'name=lan,tap=tap0', ...this.#diskFlags('hosta')],
      ...(this.#options.secondaryFlags ?? []),
    ]);
  }

  /** Waits until the agent of a host has ended by itself; resolves to its exit code. */
  async waitEnded(host: HostName): Promise<number | null> {
    const agent = this.#agents.get(host);
    if (agent === undefined) throw new Error(`No agent was started on ${host}`);
    const { code } = await agent.ended;
    return code;
  }

  async startPrimary(): Promise<void> {
    const { guest, memoryMib, periodMs, mode } = this.#options;
    await this.#start('hosta', 'colo-primary', [
      ...['--peer', this.#options.peer ?? REPLICATION_ADDRESS.hostb, '--memory', `${memoryMib}MiB`],
      ...['--kernel', guest.kernel, '--initrd', guest.initrd, '--append', guest.commandLine],
      ...this.#diskFlags('hosta'),
      ...['--nic', `name=lan,mac=${GUEST_MAC},tap=tap0`],
      ...['--mode', mode ?? DEFAULT_MODE, '--period', `${periodMs}ms`],
      ...['--min-interval', `${Math.min(periodMs, 100)}ms`],
      ...(this.#options.primaryFlags ?? []),
    ]);
  }

  async status(host: HostName, deadlineMs?: number): Promise<AgentStatus> {
    return agentStatus(this.socketPath(host), deadlineMs);
  }

  /** Asks the primary for a checkpoint; resolves when it is committed. */
  async checkpoint(host: HostName): Promise<void> {
    await callAgent(this.socketPath(host), { command: 'checkpoint', arguments: {} });
  }

  /** The agent of a host was started and has not ended. */
  runs(host: HostName): boolean {
    const agent = this.#agents.get(host);
    return agent !== undefined && agent.end === undefined;
  }

  /** Starts the agent of a host that was killed, as its operator would. */
  async restart(host: HostName): Promise<void> {
    if (host === 'hosta') await this.startPrimary();
    else await this.startSecondary();
  }

  /** Waits until a failover would lose nothing; `onStatus` sees every status on the way. */
  async waitProtected(
    onStatus?: (status: AgentStatus) => void,
    host: HostName = 'hosta',
  ): Promise<AgentStatus> {
    return this.waitStatus(host, 'the guest is protected', (status) => {
      onStatus?.(status);
      return isProtected(status);
    });
  }

  /** Waits until all services of the guest answer. */
  async waitGuest(): Promise<void> {
    await waitGuest({
      enter: this.lab.client.enter,
      buildDir: this.buildDir,
      host: GUEST_ADDRESS,
      logPath: join(this.directory, 'clients.log'),
    });
  }

  /** Polls a host's status until `holds`; rejects at once when its agent ends. */
  async waitStatus(
    host: HostName,
    what: string,
    holds: (status: AgentStatus) => boolean,
    deadlineMs = PROTECTED_DEADLINE_MS,
  ): Promise<AgentStatus> {
    const untilUs = nowUs() + deadlineMs * 1000;
    let last = 'no answer yet';
    while (nowUs() < untilUs) {
      this.#mustRun(host);
      try {
        const status = await this.status(host);
        if (holds(status)) return status;
        last = `state ${status.state}, peer ${status.peer.state}`;
      } catch (error) {
        last = (error as Error).message;
      }
      await delay(POLL_MS);
    }
    throw new Error(`On ${host}: not within ${deadlineMs / 1000} s that ${what} (${last})`);
  }

  /** SIGKILL for everything on a host at once, as a power cut would; returns when it was done. */
  async kill(host: HostName): Promise<number> {
    const pids = await this.lab[host].pids();
    const atUs = nowUs();
    signalAll(pids, 'SIGKILL');
    await this.lab[host].killAll();
    return atUs;
  }

  /** A signal for the emulator alone, such as SIGKILL or SIGSTOP. */
  async signalQemu(host: HostName, signal: NodeJS.Signals): Promise<number> {
    const pid = await this.qemuPid(host);
    const atUs = nowUs();
    signalAll([pid], signal);
    return atUs;
  }

  /** Of the one emulator of a host. */
  async qemuPid(host: HostName): Promise<number> {
    const pids = (await this.lab[host].pids()).filter((pid) => /^qemu/.test(programOf(pid)));
    const [pid] = pids;
    if (pid !== undefined && pids.length === 1) return pid;
    throw new Error(`${pids.length} emulators run on ${host}, expected 1`);
  }

  /** Signals everything on a host: SIGSTOP is a host that hangs, SIGCONT one that comes back. */
  async signalHost(host: HostName, signal: NodeJS.Signals): Promise<number> {
    const pids = await this.lab[host].pids();
    const atUs = nowUs();
    signalAll(pids, signal);
    return atUs;
  }

  /** A signal for the agent alone, such as SIGTERM. */
  signalAgent(host: HostName, signal: NodeJS.Signals): void {
    const agent = this.#agents.get(host);
    if (agent === undefined) throw new Error(`No agent was started on ${host}`);
    agent.kill(signal);
  }

  /** Waits for the end of an agent that was told to; its exit code, null after a signal. */
  async ended(host: HostName): Promise<number | null> {
    const agent = this.#agents.get(host);
    if (agent === undefined) throw new Error(`No agent was started on ${host}`);
    const end = await withDeadline(agent.ended, PROTECTED_DEADLINE_MS, `The end of ${host}`);
    return end.code;
  }

  /** Ends both agents, first by asking, then by force. */
  async stopAgents(): Promise<void> {
    await Promise.all([...this.#agents.values()].map((agent) => agent.stop()));
    await Promise.all([this.lab.hosta.killAll(), this.lab.hostb.killAll()]);
  }

  async #start(host: HostName, daemon: string, flags: readonly string[]): Promise<void> {
    const directory = join(this.directory, host);
    const agent = new Child({
      name: daemon,
      command: [
        ...this.lab[host].enter,
        ...[process.execPath, join(this.buildDir, 'src/cli', `${daemon}.js`)],
        ...['--vm', 'demo', '--host', host, '--bridge', BRIDGE],
        ...['--run-dir', join(directory, 'run'), '--state-dir', join(directory, 'state')],
        ...['--socket', this.socketPath(host)],
        ...['--console-log', join(directory, 'console.log')],
        ...['--log-level', this.#options.logLevel ?? 'info'],
        ...this.#securityFlags(host),
        ...flags,
      ],
      logPath: this.logPath(host),
    });
    this.#agents.set(host, agent);
    await this.waitStatus(host, `${daemon} answers`, () => true, SOCKET_DEADLINE_MS).catch(
      async (error: unknown) => {
        const log = await readFile(this.logPath(host), 'utf8').catch(() => '');
        throw new Error(`${daemon} did not start: ${log.trim().slice(-1000)}`, { cause: error });
      },
    );
  }

  /** As docs/security.md says; the lab has one file system, and so both hosts one folder. */
  async #makeCertificates(): Promise<void> {
    const pki = [process.execPath, join(this.buildDir, 'src/cli/colo.js'), 'pki'];
    const dir = ['--dir', this.#pkiDirectory];
    await run([...pki, 'init', ...dir]);
    for (const [host, address] of Object.entries(REPLICATION_ADDRESS)) {
      await run([...pki, 'issue', host, address, ...dir]);
    }
  }

  get #pkiDirectory(): string {
    return join(this.directory, 'pki');
  }

  #securityFlags(host: HostName): string[] {
    if (this.#options.security !== 'tls') return ['--transport-security', 'plain-trusted'];
    const file = (name: string): string => join(this.#pkiDirectory, name);
    const own = ['--tls-certificate', file(`${host}.crt`), '--tls-key', file(`${host}.key`)];
    return ['--tls-ca', file('ca.crt'), ...own];
  }

  /** The control socket of a host's agent. */
  socketPath(host: HostName): string {
    return join(this.directory, host, 'run', 'control.sock');
  }

  /** A connection to the guest's control port. */
  control(): GuestControl {
    return new GuestControl({
      enter: this.lab.client.enter,
      buildDir: this.buildDir,
      host: GUEST_ADDRESS,
      logPath: join(this.directory, 'guest-control.log'),
    });
  }

  #mustRun(host: HostName): void {
    const agent = this.#agents.get(host);
    if (agent?.end === undefined) return;
    const { code, signal } = agent.end;
    throw new Error(`${agent.name} on ${host} ended with ${signal ?? `exit code ${code}`}`);
  }
}

async function removeFiles(directory: string, kept: KeptFiles['kept']): Promise<void> {
  if (kept === 'all') return;
  const disks = [join(directory, 'hosta', 'root.img'), join(directory, 'hostb', 'state')];
  for (const path of kept === 'none' ? [directory] : disks) {
    await rm(path, { recursive: true, force: true });
  }
}
