/**
 * The primary's end of one session's disk stream: what the secondary lacks of the images, then
 * every write of the guest as it is made.
 *
 * In: calls of the main thread (`syncRound`, `edge`, `verify`), the guest's writes (`forward`), and
 * what the secondary says of its images. Out: frames on the disk link, in the order that the
 * secondary's checks expect. Each disk counts what it sends of an epoch, and the count ends with
 * the epoch, at its edge. The writes of the guest are tracked from the beginning of the session.
 */
import {
  type AcceptedImage,
  type DiskGeneration,
  type DiskMessage,
  type DiskOperation,
  decodeResyncMessage,
  EpochSender,
  type EpochTotals,
  encodeDiskMessage,
  RateLimit,
  type ReplicatedDisk,
  type ResyncProgress,
  ResyncSource,
} from '../../blockrep/index.js';
import { ColoError, ProtocolError } from '../../lib/index.js';
import type { Frame, Link } from '../../transport/index.js';
import {
  DiskVerification,
  type VerifyProgress,
  type VerifyReport,
} from './disk-verification-shell.js';
import { DISK_SYNC_CLUSTERS, REPAIR_CLUSTERS_PER_EDGE } from './limits.js';

/** A disk as its source sees it. */
export interface SourceDisk {
  readonly replicated: ReplicatedDisk;
  /** Undefined: the guest may not write to it, so the secondary has the same already. */
  readonly generation: DiskGeneration | undefined;
}

export interface DiskSourceOptions {
  readonly link: Link;
  readonly disks: readonly SourceDisk[];
  /** The running epoch. */
  readonly epoch: number;
  /** Of each disk with a generation, in their order. */
  readonly verdicts: readonly AcceptedImage[];
  /** Of all disks together while they are synchronised; undefined: as fast as it goes. */
  readonly resyncBytesPerSecond: number | undefined;
  /** The last of what a disk's image lacked has been sent. */
  onEqual(disk: number, progress: ResyncProgress): void;
}

interface Stream extends SourceDisk {
  readonly sender: EpochSender;
  readonly resync: ResyncSource | undefined;
}

/** One session's source; `end` it when the session is over. */
export class DiskSource {
  readonly #link: Link;
  readonly #streams: readonly Stream[];
  readonly #onEqual: DiskSourceOptions['onEqual'];
  #epoch: number;
  #forwarding = false;
  #ended = false;
  #verification: { readonly index: number; readonly work: DiskVerification } | undefined;

  /** Throws ProtocolError when the secondary has not judged each disk. */
  constructor(options: DiskSourceOptions) {
    const { link, disks, verdicts, resyncBytesPerSecond: limit } = options;
    this.#link = link;
    this.#onEqual = (disk, progress) => options.onEqual(disk, progress);
    this.#epoch = options.epoch;
    const rate = limit === undefined ? undefined : new RateLimit(limit);
    const writable = disks.filter(({ generation }) => generation !== undefined);
    if (writable.length !== verdicts.length) {
      throw new ProtocolError(
        `The peer judges ${verdicts.length} images where the guest writes to ${writable.length}`,
      );
    }
    this.#streams = disks.map((disk, index) => {
      const { replicated, generation } = disk;
      const sender = new EpochSender(index);
      replicated.setMode('untracked');
      if (generation === undefined) return { ...disk, sender, resync: undefined };
      // Before the changes are looked at: a write is in the one or the other.
      replicated.setMode('tracking');
      const verdict = verdicts[writable.indexOf(disk)];
      const all = verdict?.kind !== 'changed' || !generation.primary.map.trusted;
      const changed = generation.changedRanges();
      const resync = new ResyncSource({
        ...{ index, disk: replicated, link, all, changed },
        ...(rate === undefined ? {} : { rate }),
      });
      return { ...disk, sender, resync };
    });
    link.onFrame((frame) => this.#onFrame(frame));
  }

  /** The running epoch: the label of what is forwarded. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Bytes of each disk's writes that the running epoch has put into the secondary's buffer. */
  get epochBytes(): number[] {
    return this.#streams.map(({ sender }) => sender.totals.bytes);
  }

  /** Of each disk; undefined: read-only, or what it lacked is forwarded by now. */
  get resync(): (ResyncProgress | undefined)[] {
    return this.#streams.map(({ resync }) => (this.#forwarding ? undefined : resync?.progress));
  }

  get verifying(): VerifyProgress | undefined {
    return this.#verification?.work.progress;
  }

  /** The link may still have to send something, or to send it again: nobody may change it. */
  get sending(): boolean {
    return this.#link.heldBytes > 0;
  }

  /** Stops tracking and forwarding; idempotent. Does not close the link. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    const over = new ColoError('COLO_E_SESSION', 'The session is over');
    this.#verification?.work.fail(over);
    for (const { replicated, resync } of this.#streams) {
      resync?.fail(over);
      replicated.setMode('untracked');
    }
  }

  /**
   * Sends what the secondary lacks; the first round finds out what that is. Resolves to what was
   * written meanwhile, bytes.
   */
  async syncRound(): Promise<number> {
    for (const { resync } of this.#streams) await resync?.pass();
    return this.#dirtyBytes();
  }

  /** What `syncRound` has sent is durable at the secondary when it resolves. */
  async syncStored(): Promise<void> {
    await Promise.all(this.#streams.map(({ resync }) => resync?.stored()));
  }

  /** A write of the guest while it is protected; a promise when the secondary can't keep up. */
  forward(index: number, operation: DiskOperation): Promise<void> | undefined {
    const sender = this.#streams[index]?.sender;
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
    const synchronised = this.#forwarding ? [] : [...this.#streams.entries()];
    await this.#forwardDirty();
    for (const [index, { resync }] of synchronised) {
      if (resync !== undefined) this.#onEqual(index, resync.progress);
    }
    const totals = this.#streams.map(({ sender }) => sender.totals);
    for (const { sender, generation } of this.#streams) {
      this.#send(sender.end(this.#epoch));
      generation?.edge(this.#epoch);
    }
    this.#verification?.work.atEdge(this.#epoch);
    this.#epoch += 1;
    return totals;
  }

  /** The secondary has committed the epoch. */
  committed(epoch: number): void {
    for (const { generation } of this.#streams) generation?.committed(epoch);
  }

  /**
   * Compares a disk with the secondary's while the guest runs, from the next edge on. Rejects with
   * COLO_E_VERIFY when that is not possible now, and with what ends the session.
   */
  async verify(index: number, options: { repair: boolean }): Promise<VerifyReport> {
    const disk = this.#streams[index];
    const refuse = (why: string) => new ColoError('COLO_E_VERIFY', why);
    if (disk?.generation === undefined) throw refuse('A read-only disk is not replicated');
    if (!this.#forwarding) throw refuse('The guest is not protected yet');
    if (this.#verification !== undefined) throw refuse('A verification runs already');
    const { replicated } = disk;
    const work = new DiskVerification({ index, disk: replicated, link: this.#link, ...options });
    this.#verification = { index, work };
    try {
      return await work.done;
    } finally {
      this.#verification = undefined;
    }
  }

  /**
   * The last clusters of a synchronisation travel as writes of the first epoch; what is marked
   * later is a repair, and never much in one pause.
   */
  async #forwardDirty(): Promise<void> {
    const first = !this.#forwarding;
    this.#forwarding = true;
    for (const [index, { replicated }] of this.#streams.entries()) {
      if (this.#ended) return;
      if (first) replicated.setMode('forwarding');
      let left = first ? Number.POSITIVE_INFINITY : REPAIR_CLUSTERS_PER_EDGE;
      while (left > 0 && replicated.dirtyBytes > 0) {
        for (const { offset, length } of replicated.takeDirty(DISK_SYNC_CLUSTERS)) {
          const data = await replicated.read(offset, length);
          await this.forward(index, { kind: 'write', offset, data });
        }
        left -= DISK_SYNC_CLUSTERS;
      }
    }
  }

  #onFrame(frame: Frame): void {
    const message = decodeResyncMessage(frame.type, frame.payload);
    const disk = this.#streams[message.disk];
    if (message.kind === 'digestRequest' || disk?.resync === undefined) {
      throw new ProtocolError(`A secondary does not send ${message.kind} of disk ${message.disk}`);
    }
    if (this.#ended) return;
    const verification = this.#verification;
    if (message.kind === 'digests' && verification?.index === message.disk) {
      verification.work.onMessage(message);
      return;
    }
    disk.resync.onMessage(message);
  }

  #dirtyBytes(): number {
    return this.#streams.reduce((sum, { replicated }) => sum + replicated.dirtyBytes, 0);
  }

  #send(message: DiskMessage): void {
    const { type, parts } = encodeDiskMessage(message);
    this.#link.send(type, parts);
  }
}
