/**
 * The primary's end of one session's disk stream: what the secondary lacks of the images, then
 * every write of the guest as it is made.
 *
 * In: calls of the main thread (`startTracking`, `syncRound`, `edge`) and the guest's writes
 * (`forward`). Out: frames on the disk link, in the order that the secondary's checks expect. Each
 * disk counts what it sends of an epoch, and the count ends with the epoch, at its edge.
 */
import {
  DISK_DATA_BYTES_MAX,
  type DiskMessage,
  type DiskOperation,
  EpochSender,
  type EpochTotals,
  encodeDiskMessage,
  type ReplicatedDisk,
} from '../../blockrep/index.js';
import type { Link } from '../../transport/index.js';
import { DISK_SYNC_CLUSTERS } from './limits.js';

export interface DiskSourceOptions {
  readonly link: Link;
  readonly disks: readonly ReplicatedDisk[];
  /** The running epoch. */
  readonly epoch: number;
  /** Bytes that were sent of the images since `syncRound` was called. */
  readonly onProgress: (doneBytes: number) => void;
}

/** One session's source; `end` it when the session is over. */
export class DiskSource {
  readonly #link: Link;
  readonly #disks: readonly ReplicatedDisk[];
  readonly #senders: readonly EpochSender[];
  readonly #onProgress: (doneBytes: number) => void;
  #epoch: number;
  #forwarding = false;
  #ended = false;

  constructor(options: DiskSourceOptions) {
    this.#link = options.link;
    this.#disks = options.disks;
    this.#senders = options.disks.map((_disk, index) => new EpochSender(index));
    this.#onProgress = options.onProgress;
    this.#epoch = options.epoch;
  }

  /** The running epoch: the label of what is forwarded. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Bytes of each disk's writes that the running epoch has put into the secondary's buffer. */
  get epochBytes(): number[] {
    return this.#senders.map((sender) => sender.totals.bytes);
  }

  /** The link still has something to send, which nobody may change. */
  get sending(): boolean {
    return this.#link.queuedBytes > 0;
  }

  /** Stops tracking and forwarding; idempotent. Does not close the link. */
  end(): void {
    this.#ended = true;
    for (const disk of this.#disks) disk.setMode('untracked');
  }

  /**
   * The secondary's images are emptied first: then their holes are these ones'. Returns the bytes
   * that are to be sent.
   */
  startTracking(): number {
    for (const [index, disk] of this.#disks.entries()) {
      disk.setMode('untracked');
      // The secondary has the same already, and has compared the size.
      if (disk.readOnly) continue;
      disk.setMode('tracking');
      this.#send({ kind: 'syncZero', disk: index, offset: 0, length: disk.sizeBytes });
      disk.markAllDirty({ targetIsZeroes: true });
    }
    return this.#dirtyBytes();
  }

  /** Sends what was written since the last round; resolves to what was written meanwhile, bytes. */
  async syncRound(): Promise<number> {
    let doneBytes = 0;
    for (const [index, disk] of this.#disks.entries()) {
      for (let left = disk.dirtyBytes; left > 0; ) {
        const bytes = await this.#sendDirty(index, disk);
        if (bytes === 0) break;
        left -= bytes;
        doneBytes += bytes;
        this.#onProgress(doneBytes);
      }
    }
    return this.#dirtyBytes();
  }

  /** A write of the guest while it is protected; a promise when the secondary can't keep up. */
  forward(index: number, operation: DiskOperation): Promise<void> | undefined {
    const sender = this.#senders[index];
    if (this.#ended || sender === undefined) return undefined;
    for (const message of sender.messages(this.#epoch, operation)) this.#send(message);
    // A closed link ends the session elsewhere; the guest's write need not hear of it.
    return this.#link.writable ? undefined : this.#link.drained().catch(() => undefined);
  }

  /**
   * The running epoch ends here; resolves to what it had, per disk. The guest is paused and has had
   * all its answers, so no write is in progress. From the first edge on writes are forwarded.
   */
  async edge(): Promise<EpochTotals[]> {
    if (!this.#forwarding) await this.#forwardFromHere();
    const totals = this.#senders.map((sender) => sender.totals);
    for (const sender of this.#senders) this.#send(sender.end(this.#epoch));
    this.#epoch += 1;
    return totals;
  }

  /** The last clusters of the initial synchronisation travel as writes of the first epoch. */
  async #forwardFromHere(): Promise<void> {
    this.#forwarding = true;
    for (const [index, disk] of this.#disks.entries()) {
      if (this.#ended) return;
      disk.setMode('forwarding');
      for (let dirty = disk.takeDirty(DISK_SYNC_CLUSTERS); dirty.length > 0; ) {
        for (const { offset, length } of dirty) {
          const data = await disk.read(offset, length);
          await this.forward(index, { kind: 'write', offset, data });
        }
        dirty = disk.takeDirty(DISK_SYNC_CLUSTERS);
      }
    }
  }

  async #sendDirty(index: number, disk: ReplicatedDisk): Promise<number> {
    let bytes = 0;
    for (const range of disk.takeDirty(DISK_SYNC_CLUSTERS)) {
      const end = range.offset + range.length;
      for (let offset = range.offset; offset < end; offset += DISK_DATA_BYTES_MAX) {
        const data = await disk.read(offset, Math.min(DISK_DATA_BYTES_MAX, end - offset));
        this.#send({ kind: 'sync', disk: index, offset, data });
        await this.#link.drained();
      }
      bytes += range.length;
    }
    return bytes;
  }

  #dirtyBytes(): number {
    return this.#disks.reduce((sum, disk) => sum + disk.dirtyBytes, 0);
  }

  #send(message: DiskMessage): void {
    const { type, parts } = encodeDiskMessage(message);
    this.#link.send(type, parts);
  }
}
