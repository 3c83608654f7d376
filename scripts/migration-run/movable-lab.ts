/**
 * A guest on hosta that nobody protects, and hostb that would take it, for one or more rounds of
 * the migration matrix. Everything is gone afterwards, but logs in which something was found.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DiskPlace } from '../../src/migration/index.js';
import type { ClientName } from '../clients/client.js';
import { Cleanup } from '../harness/cleanup.js';
import { ClientProcess } from '../harness/client-process.js';
import type { GuestFiles } from '../harness/guest-files.js';
import { GUEST_ADDRESS, type HostName } from '../harness/lab.js';
import { GuestPattern, NOBODY } from '../harness/migration.js';
import { PairLab } from '../harness/pair-lab.js';
import type { Security } from './cells.js';

const MEMORY_MIB = 256;
const PERIOD_MS = 1000;

export interface LabContext {
  readonly root: string;
  readonly guest: GuestFiles;
  readonly keep: boolean;
  readonly disk: DiskPlace;
  readonly tell: (text: string) => void;
  /** What must be undone when a signal comes; each lab takes its own out when it is down. */
  readonly running: Set<Cleanup>;
  /** A signal came: what fails now fails because of that. */
  readonly interrupted: () => boolean;
  /** Directories of which something was kept. */
  readonly kept: string[];
}

export interface LabWish {
  readonly security: Security;
  /** RAM is compared at the switchover, which takes its time in the pause. */
  readonly verify: boolean;
}

export class MovableLab {
  readonly pair: PairLab;
  readonly cleanup: Cleanup;
  /** In the guest's memory, to be there unchanged for as long as it is the same guest. */
  readonly pattern: GuestPattern;
  readonly #context: LabContext;

  private constructor(
    context: LabContext,
    parts: Pick<MovableLab, 'pair' | 'cleanup' | 'pattern'>,
  ) {
    this.#context = context;
    this.pair = parts.pair;
    this.cleanup = parts.cleanup;
    this.pattern = parts.pattern;
  }

  /** Resolves when the guest serves; what fails leaves nothing behind. */
  static async up(context: LabContext, wish: LabWish): Promise<MovableLab> {
    if (context.interrupted()) throw new Error('A signal came');
    const cleanup = new Cleanup();
    context.running.add(cleanup);
    try {
      // What a host keeps of a guest would make its way back too short to be looked at.
      const flags = ['--keep-ram', 'off', '--peer-timeout', '3s'];
      const pair = await PairLab.up(
        {
          ...{ root: context.root, guest: context.guest, memoryMib: MEMORY_MIB, peer: NOBODY },
          ...{ periodMs: PERIOD_MS, logLevel: 'debug' },
          disk: context.disk,
          security: wish.security === 'tls' ? 'tls' : 'plain-trusted',
          primaryFlags: [...flags, ...(wish.verify ? ['--verify'] : [])],
          secondaryFlags: [...flags, '--peer', NOBODY],
        },
        cleanup,
      );
      if (context.keep) pair.keepFiles('logs');
      await pair.startSecondary();
      await pair.startPrimary();
      await pair.waitGuest();
      const pattern = await GuestPattern.fill(pair);
      return new MovableLab(context, { pair, cleanup, pattern });
    } catch (error) {
      await cleanup.run();
      context.running.delete(cleanup);
      throw error;
    }
  }

  /** Its logs stay. */
  keepLogs(): void {
    const { directory } = this.pair;
    if (this.#context.interrupted() || this.#context.kept.includes(directory)) return;
    this.pair.keepFiles('logs');
    this.#context.kept.push(directory);
    this.#context.tell(`logs are kept in ${directory}`);
  }

  async down(): Promise<void> {
    await this.cleanup.run();
    this.#context.running.delete(this.cleanup);
  }

  async startClients(names: readonly ClientName[]): Promise<ClientProcess> {
    const clients = await ClientProcess.start({
      enter: this.pair.lab.client.enter,
      buildDir: this.pair.buildDir,
      target: GUEST_ADDRESS,
      clients: names,
      logPath: join(this.pair.directory, 'clients.log'),
    });
    this.cleanup.add('clients', () => clients.kill());
    return clients;
  }

  /** What a host's agent has written to its log so far. */
  async log(host: HostName): Promise<string> {
    return await readFile(this.pair.logPath(host), 'utf8');
  }

  /** What a host has written down of a migration. */
  async record(host: HostName): Promise<string> {
    const path = join(this.pair.directory, host, 'state', 'demo.migration');
    try {
      return (JSON.parse(await readFile(path, 'utf8')) as { what: string }).what;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'none';
      throw error;
    }
  }
}
