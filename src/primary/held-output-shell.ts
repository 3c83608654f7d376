/**
 * When what the guest has said may leave, beside what the core decides: once the images on this
 * host hold durably what it may tell of, and, alone, once the records say that they went on alone.
 */
import type { Guest } from '../guest/index.js';
import { describeError } from '../lib/index.js';
import { part } from './parting-shell.js';

export interface HeldOutputOptions {
  readonly guest: Pick<Guest, 'network' | 'disks'>;
  /** An image or a record failed; what waited for an image is not released. */
  readonly onDiskFailed: (reason: string) => void;
  readonly isLeaving: () => boolean;
}

export class HeldOutput {
  readonly #options: HeldOutputOptions;
  #synced: Promise<unknown> = Promise.resolve();
  /** Durable: the images have gone on from what a lost secondary has. */
  #parted: Promise<void> = Promise.resolve();
  /** A session has begun: the records say that a peer may go on with the guest. */
  #peered = false;
  /** Such a session is over, and that is not written down yet. */
  #unparted = false;

  constructor(options: HeldOutputOptions) {
    this.#options = options;
  }

  /** A generation that begins in the middle of a session would be unknown to the secondary. */
  get parted(): Promise<void> {
    return this.#parted;
  }

  /** A capture is done: what is held by it waits for this. */
  captured(synced: Promise<unknown>): void {
    this.#synced = synced;
  }

  /** Output of a committed epoch leaves; resolves to whether it has. */
  async release(epoch: number): Promise<boolean> {
    this.#unparted = false;
    if (!(await this.#isSynced())) return false;
    this.#options.guest.network.release(epoch);
    return true;
  }

  /** What the SVM confirms may tell of writes of the last pause, too. */
  async startCompare(epoch: number): Promise<void> {
    if (await this.#isSynced()) this.#options.guest.network.startCompare(epoch);
  }

  /** The records are about to say that a peer follows, whatever comes of it. */
  peering(): void {
    this.#peered = true;
  }

  /** A session is over; output stays held until `open`, or until another session commits. */
  sessionOver(): void {
    this.#unparted ||= this.#peered;
    this.#peered = false;
  }

  /**
   * Alone, what is held may leave. A sync of a busy disk may outlast the next session's
   * synchronisation: see SourceRole.open.
   */
  async open(): Promise<void> {
    const { guest, onDiskFailed, isLeaving } = this.#options;
    if (this.#unparted) {
      this.#unparted = false;
      this.#parted = part(guest.disks, { isOver: isLeaving, onFailure: onDiskFailed });
    }
    await this.#isSynced();
    await this.#parted;
    if (!isLeaving()) guest.network.open();
  }

  async #isSynced(): Promise<boolean> {
    try {
      await this.#synced;
      return true;
    } catch (error) {
      this.#options.onDiskFailed(describeError(error));
      return false;
    }
  }
}
