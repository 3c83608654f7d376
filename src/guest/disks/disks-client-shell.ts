/**
 * The guest's disks as the main thread sees them: calls that cross to the disk thread, in order.
 * Where a promise is returned, the effect is there when it resolves.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { EpochTotals, Lineage, PrimaryImage } from '../../blockrep/index.js';
import type { Logger } from '../../lib/index.js';
import { LinkHandover } from '../../replication/index.js';
import { prepareWorker, type Session, WorkerClient } from '../../transport/index.js';
import type { StagedDisk } from './disk-target-shell.js';
import type { VerifyReport } from './disk-verification-shell.js';
import type { DisksCalls, DisksNotices } from './disks-thread-shell.js';
import type {
  DisksFigures,
  DisksSettings,
  SourceBeginning,
  StartedDisks,
} from './guest-disks-shell.js';
import { STOP_MS_MAX, THREAD_CHECK_MS, THREAD_CHECKS_MISSED_MAX } from './limits.js';

export type { DiskPlace, StartedDisks } from './guest-disks-shell.js';

const ENTRY = new URL('./disks-thread-shell.js', import.meta.url);
const NAME = 'disks';

export interface GuestDisksOptions {
  readonly log: Logger;
  /** As source: the writes of `epoch` have reached their bound; repeated while they have. */
  readonly onOverBound?: (epoch: number) => void;
  /** As target: all of a disk's epoch is here and stored. Not after `dropUncommitted`. */
  readonly onStaged?: (staged: StagedDisk) => void;
  /** As target: these disks can't be taken over any more. Not after `dropUncommitted`. */
  readonly onUnfit?: (reason: string) => void;
  /** The thread hangs in a disk that does not answer, for the time being. */
  readonly onSilent?: (reason: string) => void;
  /** The thread is gone, and with it the guest's disks. */
  readonly onFailure: (error: Error) => void;
}

export class GuestDisks {
  readonly #thread: WorkerClient<DisksCalls, DisksNotices>;
  readonly #handover: LinkHandover;
  /** False once the session is over, for what is under way from the thread by then. */
  #taking = false;
  /** Looks at the thread since it was heard. */
  #missed = 0;
  #watch: NodeJS.Timeout | undefined;
  readonly #onSilent: (reason: string) => void;
  /** A fraction of a second old. */
  figures: DisksFigures = { disks: [], verifying: undefined, memoryBytes: 0 };

  constructor(options: GuestDisksOptions) {
    const { log, onOverBound, onStaged, onUnfit, onFailure } = options;
    this.#onSilent = (reason) => {
      log.error('The disk thread is silent', { reason });
      options.onSilent?.(reason);
    };
    this.#thread = new WorkerClient(ENTRY, {
      name: NAME,
      log,
      onFailure,
      notices: {
        overBound: (epoch) => onOverBound?.(epoch),
        staged: (staged) => {
          if (this.#taking) onStaged?.(staged);
        },
        unfit: (reason) => {
          if (this.#taking) onUnfit?.(reason);
        },
        linkReport: (serial, report) => this.#handover.reported(serial, report),
        figures: (figures) => {
          this.figures = figures;
          this.#missed = 0;
        },
      },
    });
    this.#handover = new LinkHandover(this.#thread, 'disk');
  }

  /** A guest may come to this host: its thread is there by then. */
  static prepare(): void {
    prepareWorker(ENTRY, NAME);
  }

  /** Opens the images and listens for QEMU. Rejects with OperatorError for what can't be had. */
  async start(settings: DisksSettings): Promise<StartedDisks> {
    const started = await this.#thread.call('start', settings);
    this.#watch = setInterval(() => this.#look(), THREAD_CHECK_MS);
    return started;
  }

  /** Answers what QEMU has asked for, closes the images and ends the thread. */
  async stop(): Promise<void> {
    this.#taking = false;
    clearInterval(this.#watch);
    // A thread that has failed has nothing left to stop; one that hangs can't be waited for.
    const stopping = this.#thread.call('stop').catch(() => undefined);
    const giveUp = new AbortController();
    const late = delay(STOP_MS_MAX, 'late', { signal: giveUp.signal }).catch(() => undefined);
    const hangs = (await Promise.race([stopping, late])) === 'late';
    giveUp.abort();
    const terminated = this.#thread.terminate();
    if (!hangs) await terminated;
  }

  /**
   * The guest is about to write without a peer; durable when it resolves. Before the PVM starts,
   * and before anything leaves that it said in a session which has ended; a promotion does it by
   * itself. Rejects with OperatorError if an image has no state that a guest could start from.
   */
  beginAlone(): Promise<void> {
    return this.#thread.call('beginAlone');
  }

  /** What a secondary judges this host's images by, without those that are read-only. */
  images(): Promise<PrimaryImage[]> {
    return this.#thread.call('images');
  }

  /**
   * Takes the session's disk link, as a primary; writes of the guest are tracked from now on.
   * Rejects when the link is closed by then.
   */
  async attachSource(session: Session, beginning: SourceBeginning): Promise<void> {
    const link = await this.#handover.give(session);
    await this.#thread.call('attachSource', link, beginning);
  }

  /**
   * Takes the session's disk link, as a secondary of images with these lineages. Rejects when the
   * link is closed by then.
   */
  async attachTarget(session: Session, lineages: readonly Lineage[]): Promise<void> {
    const link = await this.#handover.give(session);
    this.#taking = true;
    await this.#thread.call('attachTarget', link, lineages);
  }

  /** The session is over, in either role. What is staged stays. */
  detach(): void {
    this.#taking = false;
    this.#thread.notify('detach');
  }

  // As source.

  /** Sends what the secondary lacks; resolves to what it lacks by then, bytes. */
  syncRound(): Promise<number> {
    return this.#thread.call('syncRound');
  }

  /** What `syncRound` has sent is durable there when it resolves. */
  syncStored(): Promise<void> {
    return this.#thread.call('syncStored');
  }

  /** The secondary has committed the epoch: what changed up to its end is in common. */
  committed(epoch: number): void {
    this.#thread.notify('committed', epoch);
  }

  /**
   * Compares the disk with the secondary's image, from the next edge on. Rejects with COLO_E_VERIFY
   * when that can't be begun, and when the session ends.
   */
  verify(index: number, options: { repair: boolean }): Promise<VerifyReport> {
    return this.#thread.call('verify', index, options);
  }

  /** Right before the guest is stopped: its flushes are answered at once from now on, and owed. */
  beginPause(): void {
    this.#thread.notify('beginPause');
  }

  /**
   * The edge of `epoch` on the disk stream: the guest is stopped. Resolves to what the epoch had,
   * per disk; the guest must not run before.
   */
  edge(epoch: number): Promise<EpochTotals[]> {
    return this.#thread.call('edge', epoch);
  }

  /** The guest runs again. Resolves when the images hold durably what it was told that they do. */
  endPause(): Promise<void> {
    return this.#thread.call('endPause');
  }

  /** What the guest has written to shared disks so far is durable when it resolves. */
  flushShared(): Promise<void> {
    return this.#thread.call('flushShared');
  }

  /** The guest is paused: another host may open the shared images when it resolves. */
  leaveShared(): Promise<void> {
    return this.#thread.call('leaveShared');
  }

  /**
   * The guest goes on here after all, when it resolves. Rejects with OperatorError if another host
   * has an image.
   */
  enterSharedAgain(): Promise<void> {
    return this.#thread.call('enterSharedAgain');
  }

  /** Paths of the shared images that were written to since `leaveShared`. */
  changedShared(): Promise<string[]> {
    return this.#thread.call('changedShared');
  }

  // As target.

  /** Rejects with COLO_E_UNFIT if a disk can't keep what it would promise. */
  commit(epoch: number): Promise<void> {
    return this.#thread.call('commit', epoch);
  }

  /** The SVM is stopped. */
  apply(epoch: number): Promise<void> {
    return this.#thread.call('apply', epoch);
  }

  /** The primary is gone: forgets what is not committed, after what was begun. */
  dropUncommitted(): Promise<void> {
    this.#taking = false;
    return this.#thread.call('dropUncommitted');
  }

  /**
   * Commits and applies the last epoch, if one was sent, of a guest that may run then, before
   * `promote`: what it writes until then dies with this process, and its flushes wait. Opens the
   * shared images. Rejects with COLO_E_UNFIT, or OperatorError.
   */
  begin(epoch: number | undefined): Promise<void> {
    return this.#thread.call('begin', epoch);
  }

  /** Makes the images the guest's own; resolves when it may run on. Rejects when unfit. */
  promote(): Promise<void> {
    return this.#thread.call('promote');
  }

  /** Looks are counted, not time: for a process that was stopped its thread is not to blame. */
  #look(): void {
    this.#missed += 1;
    if (this.#missed !== THREAD_CHECKS_MISSED_MAX) return;
    const seconds = (THREAD_CHECKS_MISSED_MAX * THREAD_CHECK_MS) / 1000;
    this.#onSilent(`No answer of the disk thread for ${seconds} s`);
  }
}
