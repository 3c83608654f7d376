/**
 * The secondary's end of one session's disk stream: takes it into the disks, strictly in order.
 *
 * In: frames of the disk link. Out: `onStaged` for each disk once its epoch is closed; for the last
 * one, once it is durable; and, for the primary to find out what differs, what this host changed
 * itself, and digests. Messages of a synchronisation go straight to the image and must be on it
 * before an epoch is closed, so everything is one chain of work; the link is paused while the chain
 * is long.
 *
 * The generation records are kept in step: an image counts as being overwritten from before the
 * first byte, or the first epoch that a crash could leave in it, until the first epoch is applied.
 */
import {
  type DiskGeneration,
  type DiskMessage,
  decodeDiskMessage,
  decodeResyncMessage,
  isResyncType,
  type Lineage,
  ResyncTarget,
  type SecondaryDisks,
} from '../../blockrep/index.js';
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

export interface DiskTargetOptions {
  readonly link: Link;
  readonly disks: SecondaryDisks;
  /** Of each disk; undefined: it is read-only. */
  readonly generations: readonly (DiskGeneration | undefined)[];
  /** Of the primary's images, for each disk with a generation. */
  readonly lineages: readonly Lineage[];
  readonly onStaged: (staged: StagedDisk) => void;
  readonly onFailure: (reason: string) => void;
}

/** A disk that the guest may write to. */
interface Replica {
  readonly generation: DiskGeneration;
  readonly peer: Lineage;
  readonly resync: ResyncTarget;
  begun: boolean;
}

/** The target of one session. */
export class DiskTarget {
  readonly #link: Link;
  readonly #disks: SecondaryDisks;
  readonly #replicas: readonly (Replica | undefined)[];
  readonly #onStaged: (staged: StagedDisk) => void;
  readonly #onFailure: (reason: string) => void;
  #work: Promise<void> = Promise.resolve();
  #waiting = 0;
  #stopped = false;
  /** The images are the end of an epoch of this session. */
  #standby = false;

  constructor(options: DiskTargetOptions) {
    const { link, disks, generations } = options;
    this.#link = link;
    this.#disks = disks;
    this.#onStaged = options.onStaged;
    this.#onFailure = options.onFailure;
    const lineages = [...options.lineages];
    this.#replicas = generations.map((generation, index) => {
      const peer = generation && lineages.shift();
      return (
        peer && { generation, peer, resync: this.#resyncTarget(index, generation), begun: false }
      );
    });
    this.#link.onFrame((frame) => this.#onFrame(frame));
    this.#then(async () => {
      for (const replica of this.#replicas) await replica?.resync.announce();
    });
  }

  /** Takes no more; resolves once what was begun is done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#work;
    for (const replica of this.#replicas) void replica?.resync.stop();
  }

  /** After `stop`: resolves once the images are not read any more. */
  async idle(): Promise<void> {
    for (const replica of this.#replicas) await replica?.resync.stop();
  }

  /** The primary is gone: forgets what is not committed, after what was begun. */
  async dropUncommitted(): Promise<void> {
    await this.stop();
    await this.#disks.dropUncommitted();
  }

  /** The images are the end of this epoch. Resolves when the records of the first one say so. */
  async applied(epoch: number): Promise<void> {
    const first = !this.#standby;
    this.#standby = true;
    await Promise.all(
      this.#replicas.map(async (replica) => {
        if (replica === undefined) return;
        const { generation, peer, resync } = replica;
        if (first) await generation.standbyAt(peer, epoch);
        else generation.applied(epoch);
        resync.applied(epoch);
      }),
    );
  }

  #resyncTarget(index: number, generation: DiskGeneration): ResyncTarget {
    const disks = this.#disks;
    const disk = disks.disks[index];
    if (disk === undefined) throw new ProtocolError(`There is no disk ${index}`);
    return new ResyncTarget({
      index,
      link: this.#link,
      changed: generation.ownChanges(),
      disk: {
        sizeBytes: disk.sizeBytes,
        readImage: (offset, length) => disk.readImage(offset, length),
        imageRanges: () => disk.imageRanges(),
        syncWrite: (offset, data) => disks.syncWrite(index, offset, data),
        syncZero: (offset, length) => disks.syncZero(index, offset, length),
      },
      onFailure: (reason) => this.#failed(`Disk ${index}: ${reason}`),
    });
  }

  #onFrame(frame: Frame): void {
    if (isResyncType(frame.type)) {
      const message = decodeResyncMessage(frame.type, frame.payload);
      const replica = this.#replicas[message.disk];
      if (message.kind !== 'digestRequest' || replica === undefined) {
        throw new ProtocolError(`A primary does not send ${message.kind} of disk ${message.disk}`);
      }
      this.#then(async () => {
        // Its source may ask because it wants to know that.
        await this.#disks.storeSynced();
        replica.resync.request(message);
      });
      return;
    }
    const message = decodeDiskMessage(frame.type, frame.payload);
    this.#then(() => this.#handle(message), `Disk ${message.disk}: `);
  }

  #then(work: () => Promise<void>, where = ''): void {
    this.#waiting += 1;
    if (this.#waiting >= DISK_WORK_MESSAGES) this.#link.pause();
    this.#work = this.#work.then(async () => {
      try {
        if (!this.#stopped) await work();
      } catch (error) {
        this.#failed(`${where}${describeError(error)}`);
      }
      this.#waiting -= 1;
      if (this.#waiting < DISK_WORK_MESSAGES / 2) this.#link.resume();
    });
  }

  /** A link that ended is told by the link. */
  #failed(reason: string): void {
    const told = this.#stopped || this.#link.closeReason !== undefined;
    this.#stopped = true;
    if (!told) this.#onFailure(reason);
  }

  async #handle(message: DiskMessage): Promise<void> {
    const { disk } = message;
    switch (message.kind) {
      case 'sync':
      case 'syncZero':
        return (await this.#begun(disk)).resync.sync(message);
      case 'epochEnd': {
        const { epoch, operations, bytes } = message;
        if (this.#replicas[disk] !== undefined) await this.#begun(disk);
        const result = await this.#disks.closeEpoch(disk, epoch, { operations, bytes });
        if (!result.ok) throw new ProtocolError(result.reason);
        this.#onStaged({ epoch, disk, operations, bytes });
        return;
      }
      default:
        await this.#disks.stage(disk, message.epoch, message);
    }
  }

  async #begun(disk: number): Promise<Replica> {
    const replica = this.#replicas[disk];
    if (replica === undefined) throw new ProtocolError(`Disk ${disk} is not synchronised`);
    if (!replica.begun) await replica.generation.beginSync(replica.peer);
    replica.begun = true;
    return replica;
  }
}
