/**
 * The main thread's side of the guard: gives the sign of life, passes events on and hears the news.
 *
 * If the thread fails, the lease runs out with nobody to extend it; `onFailure` is where the node
 * ends in order.
 */
import type { Logger } from '../../lib/index.js';
import { WorkerClient } from '../../transport/index.js';
import {
  createAliveMemory,
  type GuardNews,
  type GuardSettings,
  type GuardStatus,
  type HeartbeatPeer,
  stampAlive,
} from './guard-shell.js';
import type { GuardCalls, GuardNotices } from './guard-thread-shell.js';
import type { HeartbeatSide } from './heartbeat-seal-shell.js';
import type { GuardInput } from './speech-guard.js';

export interface GuardClientOptions {
  readonly settings: Omit<GuardSettings, 'alive'>;
  readonly log: Logger;
  readonly onNews: (news: GuardNews) => void;
  readonly onFailure: (error: Error) => void;
}

export class GuardClient {
  readonly #worker: WorkerClient<GuardCalls, GuardNotices>;
  readonly #stamp: NodeJS.Timeout;

  constructor(options: GuardClientOptions) {
    const alive = createAliveMemory();
    this.#worker = new WorkerClient<GuardCalls, GuardNotices>(
      new URL('./guard-thread-shell.js', import.meta.url),
      {
        name: 'guard',
        log: options.log,
        notices: { news: options.onNews },
        onFailure: options.onFailure,
      },
    );
    const intervalMs = Math.max(1, options.settings.heartbeatUs / 1000);
    this.#stamp = setInterval(() => stampAlive(alive), intervalMs);
    this.#worker.notify('start', { ...options.settings, alive });
  }

  /** One socket for each local address, in place of any others; resolves with the ports. */
  listen(addresses: readonly string[]): Promise<number[]> {
    return this.#worker.call('listen', addresses);
  }

  /** `secret` as told in the session's hello; then `input({ kind: 'joined' })`. */
  connect(peers: readonly HeartbeatPeer[], secret: Uint8Array, side: HeartbeatSide): void {
    this.#worker.notify('connect', peers, secret, side);
  }

  input(input: GuardInput): void {
    this.#worker.notify('input', input);
  }

  /** Resolves once it counts. */
  settle(input: GuardInput): Promise<void> {
    return this.#worker.call('input', input);
  }

  status(): Promise<GuardStatus> {
    return this.#worker.call('status');
  }

  /** The thread does not answer: ends it in the middle of whatever it does. Its calls reject. */
  abandon(): void {
    clearInterval(this.#stamp);
    this.#worker.kill();
  }

  /** The lease is over when this resolves, and the grant given back if the witness answered. */
  async stop(reason: string): Promise<void> {
    clearInterval(this.#stamp);
    // A thread that has failed can't be asked; its lease runs out.
    await this.#worker.call('stop', reason).catch(() => {});
    await this.#worker.terminate();
  }
}
