/**
 * The secondary's end of one session's disk stream: takes it into the disks, strictly in order.
 *
 * In: frames of the disk link. Out: `onStaged` for each disk once its epoch is closed; for the last
 * one, once it is durable. Messages of the initial synchronisation go straight to the image and
 * must be on it before an epoch is closed, so everything is one chain of work; the link is paused
 * while the chain is long.
 */
import { type DiskMessage, decodeDiskMessage, type SecondaryDisks } from '../../blockrep/index.js';
import { describeError, ProtocolError } from '../../lib/index.js';
import type { Frame, Link } from '../../transport/index.js';
import { DISK_WORK_MESSAGES } from './limits.js';

/** What the stream brought of one epoch for one disk. */
export interface StagedDisk {
  readonly epoch: number;
  readonly disk: number;
  readonly operations: number;
  readonly bytes: number;
}

/** The target of one session. */
export class DiskTarget {
  readonly #link: Link;
  readonly #disks: SecondaryDisks;
  readonly #onStaged: (staged: StagedDisk) => void;
  readonly #onFailure: (reason: string) => void;
  #work: Promise<void> = Promise.resolve();
  #waiting = 0;
  #stopped = false;

  constructor(options: {
    link: Link;
    disks: SecondaryDisks;
    onStaged: (staged: StagedDisk) => void;
    onFailure: (reason: string) => void;
  }) {
    this.#link = options.link;
    this.#disks = options.disks;
    this.#onStaged = options.onStaged;
    this.#onFailure = options.onFailure;
    this.#link.onFrame((frame) => this.#onFrame(frame));
  }

  /** Takes no more; resolves once what was begun is done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#work;
  }

  /** The primary is gone: forgets what is not committed, after what was begun. */
  async dropUncommitted(): Promise<void> {
    await this.stop();
    await this.#disks.dropUncommitted();
  }

  #onFrame(frame: Frame): void {
    const message = decodeDiskMessage(frame.type, frame.payload);
    this.#waiting += 1;
    if (this.#waiting >= DISK_WORK_MESSAGES) this.#link.pause();
    this.#work = this.#work.then(async () => {
      try {
        if (!this.#stopped) await this.#handle(message);
      } catch (error) {
        this.#stopped = true;
        this.#onFailure(`Disk ${message.disk}: ${describeError(error)}`);
      }
      this.#waiting -= 1;
      if (this.#waiting < DISK_WORK_MESSAGES / 2) this.#link.resume();
    });
  }

  async #handle(message: DiskMessage): Promise<void> {
    const { disk } = message;
    switch (message.kind) {
      case 'sync':
        return this.#disks.syncWrite(disk, message.offset, message.data);
      case 'syncZero':
        return this.#disks.syncZero(disk, message.offset, message.length);
      case 'epochEnd': {
        const { epoch, operations, bytes } = message;
        const result = await this.#disks.closeEpoch(disk, epoch, { operations, bytes });
        if (!result.ok) throw new ProtocolError(result.reason);
        this.#onStaged({ epoch, disk, operations, bytes });
        return;
      }
      default:
        await this.#disks.stage(disk, message.epoch, message);
    }
  }
}
