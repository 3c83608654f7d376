/**
 * All disks of the guest and what becomes of their writes. Runs in a thread of its own:
 * disks-thread-shell.ts has its door, disks-client-shell.ts the main thread's.
 *
 *     QEMU -> NbdServer -> ReplicatedDisk -> DeadlineDisk -> SecondaryDisk -> ImageFile
 *                               |                                 ^
 *                source: DiskSource -> link  ->  link -> DiskTarget: target
 *
 * The layers of a disk are the same in both roles. While a primary is attached (`target`) its writes
 * are staged in the SecondaryDisk and the guest's own go to the overlay; while a secondary is
 * attached (`source`) the guest's writes are forwarded. A promotion leads from the one to the other.
 */
import { getHeapStatistics } from 'node:v8';
import {
  type BlockLayer,
  DeadlineDisk,
  type EpochTotals,
  ImageFile,
  NbdServer,
  ReplicatedDisk,
  SecondaryDisk,
} from '../../blockrep/index.js';
import type { DiskFormat } from '../../config/index.js';
import { assert, type Logger } from '../../lib/index.js';
import type { Link } from '../../transport/index.js';
import { DiskSource } from './disk-source-shell.js';
import { DiskTarget, type StagedDisk } from './disk-target-shell.js';
import { BOUND_CHECK_MS, EPOCH_DISK_BYTES } from './limits.js';

/** `live`: the images are the guest's disks; `standby`: they are another host's guest's. */
export type DisksRole = 'live' | 'standby';

/** One disk of the guest on this host. */
export interface DiskPlace {
  /** Its export's. */
  readonly name: string;
  readonly path: string;
  /** Default: raw, as far as the image does not look like something else. */
  readonly format?: DiskFormat | undefined;
  readonly readOnly?: boolean | undefined;
  /** Creates a missing image with this size; an existing one must have it. */
  readonly sizeBytes?: number;
}

/** What to start with; plain data. */
export interface DisksSettings {
  readonly role: DisksRole;
  readonly disks: readonly DiskPlace[];
  /** Where the sockets for QEMU are made. */
  readonly socketDirectory: string;
  /** Where unlinked spill files are made; not needed in role `live`. */
  readonly spillDirectory?: string;
}

/** Per disk, in their order. */
export interface StartedDisks {
  readonly sockets: readonly string[];
  readonly sizes: readonly number[];
}

/** What the disks tell of themselves. */
export interface DisksEvents {
  /** As source: the epoch's writes have reached their bound. Again and again until it ends. */
  overBound(epoch: number): void;
  /** As source: bytes sent in the running `syncRound`. */
  syncProgress(doneBytes: number): void;
  /** As target: all of the epoch is here and stored. */
  staged(staged: StagedDisk): void;
  /** As target: these disks can't be taken over any more. */
  unfit(reason: string): void;
}

/** One disk in numbers. */
export interface DiskFigures {
  readonly sizeBytes: number;
  /** Written in epochs that are not committed yet, as far as this host knows. */
  readonly bufferedBytes: number;
  /** The SVM's own writes since the last checkpoint. */
  readonly overlayBytes: number;
}

/** All disks in numbers. */
export interface DisksFigures {
  readonly disks: readonly DiskFigures[];
  /** Of this thread: its heap and its buffers. */
  readonly memoryBytes: number;
}

interface DiskStack {
  readonly base: BlockLayer;
  /** What a target writes to; undefined on a disk that was never anybody else's. */
  readonly standby: SecondaryDisk | undefined;
  readonly replicated: ReplicatedDisk;
  readonly server: NbdServer;
}

export class DiskStacks {
  readonly #log: Logger;
  readonly #events: DisksEvents;
  readonly #stacks: DiskStack[] = [];
  #source: DiskSource | undefined;
  /** Its link may go on sending after the source has ended. */
  #lastSource: DiskSource | undefined;
  #target: DiskTarget | undefined;
  #boundCheck: NodeJS.Timeout | undefined;

  constructor(log: Logger, events: DisksEvents) {
    this.#log = log;
    this.#events = events;
  }

  /** Opens the images and listens. Throws OperatorError for what can't be had; then `stop`. */
  async start(settings: DisksSettings): Promise<StartedDisks> {
    const sockets: string[] = [];
    for (const place of settings.disks) {
      const socketPath = `${settings.socketDirectory}/disk-${sockets.length}`;
      await this.#startDisk(place, settings, socketPath);
      sockets.push(socketPath);
    }
    this.#boundCheck = setInterval(() => this.#checkBound(), BOUND_CHECK_MS);
    return { sockets, sizes: this.#stacks.map(({ base }) => base.sizeBytes) };
  }

  /** Finishes what QEMU has asked for, closes the images. Idempotent. */
  async stop(): Promise<void> {
    clearInterval(this.#boundCheck);
    this.#source?.end();
    await this.#target?.stop();
    for (const { server, base } of this.#stacks.splice(0).reverse()) {
      await server.stop();
      await base.close();
    }
  }

  get figures(): DisksFigures {
    const epochBytes = this.#source?.epochBytes ?? [];
    const disks = this.#stacks.map(({ base, standby }, index) => ({
      sizeBytes: base.sizeBytes,
      bufferedBytes: (epochBytes[index] ?? 0) + (standby?.stats.bufferedBytes ?? 0),
      overlayBytes: standby?.stats.overlayBytes ?? 0,
    }));
    const heap = getHeapStatistics();
    return { disks, memoryBytes: heap.total_heap_size + heap.external_memory };
  }

  /** A secondary is there: it gets what the guest writes, as parts of `epoch` at first. */
  attachSource(link: Link, epoch: number): void {
    this.#source?.end();
    this.#source = new DiskSource({
      link,
      disks: this.#stacks.map(({ replicated }) => replicated),
      epoch,
      onProgress: (doneBytes) => this.#events.syncProgress(doneBytes),
    });
    this.#lastSource = this.#source;
  }

  /** A primary is there: its writes are taken. */
  attachTarget(link: Link): void {
    this.#target = new DiskTarget({
      link,
      disks: this.#standbys(),
      onStaged: (staged) => this.#events.staged(staged),
      onFailure: (reason) => this.#events.unfit(reason),
    });
  }

  /** The session is over, in either role: nothing more is sent, and nothing more is taken. */
  async detach(): Promise<void> {
    this.#source?.end();
    this.#source = undefined;
    await this.#target?.stop();
  }

  // As source.

  startTracking(): number {
    return this.#attached().startTracking();
  }

  syncRound(): Promise<number> {
    return this.#attached().syncRound();
  }

  edge(epoch: number): Promise<EpochTotals[]> {
    const source = this.#attached();
    assert(source.epoch === epoch, `The disks are in epoch ${source.epoch}, not ${epoch}`);
    return source.edge();
  }

  beginPause(): void {
    for (const { replicated } of this.#stacks) replicated.beginPause();
  }

  async endPause(): Promise<void> {
    await Promise.all(this.#stacks.map(({ replicated }) => replicated.endPause()));
  }

  // As target.

  commit(epoch: number): void {
    for (const disk of this.#standbys()) disk.commit(epoch);
  }

  async apply(epoch: number): Promise<void> {
    await Promise.all(this.#standbys().map((disk) => disk.apply(epoch)));
  }

  async dropUncommitted(): Promise<void> {
    await this.#target?.stop();
    for (const disk of this.#standbys()) await disk.dropUncommitted();
  }

  async promote(): Promise<void> {
    for (const disk of this.#standbys()) await disk.promote();
  }

  async #startDisk(place: DiskPlace, settings: DisksSettings, socketPath: string): Promise<void> {
    const { name, ...options } = place;
    const image = await ImageFile.open({ ...options, log: this.#log });
    const standby = this.#makeStandby(image, settings);
    const base = new DeadlineDisk(standby ?? image);
    const index = this.#stacks.length;
    const replicated = new ReplicatedDisk({
      base,
      onWrite: (operation) => this.#source?.forward(index, operation),
      isSending: () => this.#lastSource?.sending ?? false,
    });
    const exports = new Map([[name, replicated]]);
    const server = new NbdServer({ socketPath, exports, log: this.#log });
    this.#stacks.push({ base, standby, replicated, server });
    await server.start();
  }

  #makeStandby(image: ImageFile, settings: DisksSettings): SecondaryDisk | undefined {
    const { role, spillDirectory } = settings;
    if (role === 'live') return undefined;
    assert(spillDirectory !== undefined, 'Disks in standby need a place to spill to');
    return new SecondaryDisk({
      image,
      spillDirectory,
      log: this.#log,
      onUnfit: (reason) => this.#events.unfit(reason),
    });
  }

  #standbys(): SecondaryDisk[] {
    return this.#stacks.map(({ standby }) => {
      assert(standby !== undefined, "These disks are the guest's own");
      return standby;
    });
  }

  #attached(): DiskSource {
    assert(this.#source !== undefined, 'No secondary is attached to the disks');
    return this.#source;
  }

  #checkBound(): void {
    const source = this.#source;
    if (source === undefined) return;
    const bytes = source.epochBytes.reduce((sum, each) => sum + each, 0);
    if (bytes > EPOCH_DISK_BYTES) this.#events.overBound(source.epoch);
  }
}
