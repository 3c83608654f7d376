/**
 * The secondary's network as the main thread sees it: calls that cross to the network thread, in
 * order. Where a promise is returned, the effect is there when it resolves.
 */
import type { Logger } from '../lib/index.js';
import type { GuestPortFds } from '../linux/index.js';
import { LinkHandover } from '../replication/index.js';
import { type Session, WorkerClient } from '../transport/index.js';
import type { NetworkStats } from './secondary-network-shell.js';
import type {
  NetworkCalls,
  NetworkNotices,
  NetworkSettings,
} from './secondary-network-thread-shell.js';

export interface NetworkClientOptions {
  readonly log: Logger;
  /** The thread is gone, and with it the guest's network. */
  readonly onFailure: (error: Error) => void;
}

export class SecondaryNetworkClient {
  readonly #thread: WorkerClient<NetworkCalls, NetworkNotices>;
  readonly #handover: LinkHandover;
  /** A fraction of a second old. */
  stats: NetworkStats = { nics: [] };

  constructor({ log, onFailure }: NetworkClientOptions) {
    const entry = new URL('./secondary-network-thread-shell.js', import.meta.url);
    this.#thread = new WorkerClient(entry, {
      name: 'network',
      log,
      onFailure,
      notices: {
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
  async attach(session: Session): Promise<void> {
    await this.#thread.call('attach', await this.#handover.give(session));
  }

  detach(): void {
    this.#thread.notify('detach');
  }

  quiesce(): Promise<void> {
    return this.#thread.call('quiesce');
  }

  drain(): Promise<boolean> {
    return this.#thread.call('drain');
  }

  rewind(): void {
    this.#thread.notify('rewind');
  }

  run(epoch: number): Promise<void> {
    return this.#thread.call('run', epoch);
  }

  committed(epoch: number): void {
    this.#thread.notify('committed', epoch);
  }

  promote(): Promise<void> {
    return this.#thread.call('promote');
  }

  goLive(options: { announce: boolean }): void {
    this.#thread.notify('goLive', options);
  }
}
