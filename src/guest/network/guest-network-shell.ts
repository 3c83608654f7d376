/**
 * The guest's network as the main thread sees it, in either role: calls that cross to the network
 * thread, in order. Where a promise is returned, the effect is there when it resolves.
 *
 * A guest that boots here is a source from the beginning. Any other is a target, and after
 * `promote` and `goLive` a source, too; a source may be attached to session after session.
 */
import type { CaptureOptions, CommandResult } from '../../config/index.js';
import type { Logger } from '../../lib/index.js';
import type { GuestPortFds } from '../../linux/index.js';
import { LinkHandover } from '../../replication/index.js';
import { prepareWorker, type Session, WorkerClient } from '../../transport/index.js';
import type { SessionRole } from './network-shell.js';
import { type NetworkStats, NO_COMPARISON } from './network-stats.js';
import type { NetworkCalls, NetworkNotices, NetworkSettings } from './network-thread-shell.js';
import type { CompareReason } from './source-role-shell.js';

const ENTRY = new URL('./network-thread-shell.js', import.meta.url);
const NAME = 'network';

export interface GuestNetworkOptions {
  readonly log: Logger;
  /** Of a source; `epoch` is the one in which the guests were compared. */
  readonly onCheckpointNeeded: (reason: CompareReason, epoch: number) => void;
  /** The thread is gone, and with it the guest's network. */
  readonly onFailure: (error: Error) => void;
}

export class GuestNetwork {
  readonly #thread: WorkerClient<NetworkCalls, NetworkNotices>;
  readonly #handover: LinkHandover;
  /** A fraction of a second old. */
  stats: NetworkStats = { nics: [], compare: NO_COMPARISON };

  constructor(options: GuestNetworkOptions) {
    const { log, onCheckpointNeeded, onFailure } = options;
    this.#thread = new WorkerClient(ENTRY, {
      name: NAME,
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
    this.#handover = new LinkHandover(this.#thread, 'network');
  }

  /** A guest may come to this host: its thread is there by then. */
  static prepare(): void {
    prepareWorker(ENTRY, NAME);
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

  /**
   * Takes the session's network link; from then on a source mirrors what the LAN says, as part of
   * the running epoch. Rejects when the link is closed by then.
   */
  async attach(session: Session, as: SessionRole): Promise<void> {
    const link = await this.#handover.give(session);
    await this.#thread.call('attach', link, as);
  }

  /** The session is over. A source's held output stays held until `open` or a later commit. */
  detach(): void {
    this.#thread.notify('detach');
  }

  /** Before the guest is stopped. True if QEMU has read all input, so that the edge is exact. */
  quiesce(): Promise<boolean> {
    return this.#thread.call('quiesce');
  }

  /** The guest stands still. False if QEMU may go on sending: to be drained again. */
  drain(): Promise<boolean> {
    return this.#thread.call('drain');
  }

  /** Source: the drained guest stands at the end of `epoch`; `compares`: the SVM runs the next. */
  edge(epoch: number, options: { exact: boolean; compares: boolean }): Promise<void> {
    return this.#thread.call('edge', epoch, options);
  }

  /** Source: the pause is over, whether it has reached the edge or not. */
  resume(): void {
    this.#thread.notify('resume');
  }

  /** Source: the SVM executes `epoch` from now on. */
  startCompare(epoch: number): void {
    this.#thread.notify('startCompare', epoch);
  }

  /** Source. Resolves when the files are whole, or the capture was refused. */
  capture(options: CaptureOptions): Promise<CommandResult> {
    return this.#thread.call('capture', options);
  }

  /** Source: checkpoint `epoch` + 1 is committed. */
  release(epoch: number): void {
    this.#thread.notify('release', epoch);
  }

  /** Source: unprotected; everything held leaves, unless a new session holds by now. */
  open(): void {
    this.#thread.notify('open');
  }

  /** Source. Resolves once not a frame leaves any more; a thread that is gone sends none. */
  async silence(): Promise<void> {
    await this.#thread.call('silence').catch(() => undefined);
  }

  /** Target: the SVM stands still, is drained, and is about to become another. */
  rewind(): void {
    this.#thread.notify('rewind');
  }

  /** Target: the SVM is about to execute `epoch`; before it is resumed. */
  run(epoch: number): Promise<void> {
    return this.#thread.call('run', epoch);
  }

  /** Target: epoch `epoch` is committed, its inbound is part of the checkpoint. */
  committed(epoch: number): void {
    this.#thread.notify('committed', epoch);
  }

  /**
   * The target becomes a source: the guest speaks from here; before it is resumed. `held`: what it
   * says waits for `open`.
   */
  promote(output: 'open' | 'held' = 'open'): Promise<void> {
    return this.#thread.call('promote', output);
  }

  /** The promoted guest executes: it gets what it has not had, and the LAN hears where it is. */
  goLive(options: { announce: boolean }): void {
    this.#thread.notify('goLive', options);
  }

  /** The LAN hears where the guest is; only once it may speak. */
  announce(): void {
    this.#thread.notify('announce');
  }
}
