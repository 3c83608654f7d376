/**
 * The primary's network as the main thread sees it: calls that cross to the network thread, in
 * order. Where a promise is returned, the effect is there when it resolves.
 */
import type { CaptureOptions, CommandResult } from '../config/index.js';
import type { Logger } from '../lib/index.js';
import type { GuestPortFds } from '../linux/index.js';
import { LinkHandover } from '../replication/index.js';
import { type Session, WorkerClient } from '../transport/index.js';
import type { CompareReason, NetworkStats } from './primary-network-shell.js';
import type {
  NetworkCalls,
  NetworkNotices,
  NetworkSettings,
} from './primary-network-thread-shell.js';

export interface NetworkClientOptions {
  readonly log: Logger;
  readonly onCheckpointNeeded: (reason: CompareReason, epoch: number) => void;
  /** The thread is gone, and with it the guest's network. */
  readonly onFailure: (error: Error) => void;
}

const NOTHING_YET: NetworkStats = {
  nics: [],
  compare: {
    comparing: false,
    flows: 0,
    confirmedFrames: 0,
    divergences: 0,
    timeouts: 0,
    staleFrames: 0,
  },
};

export class PrimaryNetworkClient {
  readonly #thread: WorkerClient<NetworkCalls, NetworkNotices>;
  readonly #handover: LinkHandover;
  /** A fraction of a second old. */
  stats: NetworkStats = NOTHING_YET;

  constructor(options: NetworkClientOptions) {
    const { log, onCheckpointNeeded, onFailure } = options;
    this.#thread = new WorkerClient(new URL('./primary-network-thread-shell.js', import.meta.url), {
      name: 'network',
      log,
      onFailure,
      notices: {
        checkpointNeeded: onCheckpointNeeded,
        linkReport: (serial, report) => this.#handover.reported(serial, report),
        stats: (stats) => {
          this.stats = stats;
        },
      },
    });
    this.#handover = new LinkHandover({
      closeLink: (serial) => this.#thread.notify('closeLink', serial),
      destroyLink: (serial) => this.#thread.notify('destroyLink', serial),
    });
  }

  /** Resolves to QEMU's ends of the NICs, to be inherited and then closed here. */
  start(settings: NetworkSettings): Promise<GuestPortFds[]> {
    return this.#thread.call('start', settings);
  }

  closeQemuFds(): void {
    this.#thread.notify('closeQemuFds');
  }

  /** Removes the TAPs and ends the thread. */
  async stop(): Promise<void> {
    // A thread that has failed has nothing left to stop.
    await this.#thread.call('stop').catch(() => undefined);
    await this.#thread.terminate();
  }

  /** Takes the session's network link. Rejects when it is closed by then. */
  async attach(session: Session, epoch: number): Promise<void> {
    const link = await this.#handover.give(session);
    await this.#thread.call('attach', link, epoch);
  }

  detach(): void {
    this.#thread.notify('detach');
  }

  quiesce(): Promise<boolean> {
    return this.#thread.call('quiesce');
  }

  drain(): Promise<boolean> {
    return this.#thread.call('drain');
  }

  edge(epoch: number, options: { exact: boolean; compares: boolean }): Promise<void> {
    return this.#thread.call('edge', epoch, options);
  }

  resume(): void {
    this.#thread.notify('resume');
  }

  startCompare(epoch: number): void {
    this.#thread.notify('startCompare', epoch);
  }

  /** Resolves when the files are whole, or the capture was refused. */
  capture(options: CaptureOptions): Promise<CommandResult> {
    return this.#thread.call('capture', options);
  }

  release(epoch: number): void {
    this.#thread.notify('release', epoch);
  }

  open(): void {
    this.#thread.notify('open');
  }

  /** Resolves once not a frame leaves any more; a thread that is gone sends none. */
  async silence(): Promise<void> {
    await this.#thread.call('silence').catch(() => undefined);
  }
}
