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
  SecondaryDisks,
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
  /** The guest's name: its journal is called after it. */
  readonly vm: string;
  /** Where the journal is and unlinked spill files are made. */
  readonly stateDirectory: string;
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
  readonly replicated: ReplicatedDisk;
  readonly server: NbdServer;
}

export class DiskStacks {
  readonly #log: Logger;
  readonly #events: DisksEvents;
  readonly #stacks: DiskStack[] = [];
  /** The images and their overlays; in role `live` without any. */
  #disks: SecondaryDisks | undefined;
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
    this.#disks = await this.#open(settings);
    const sockets: string[] = [];
    for (const [index, disk] of this.#disks.disks.entries()) {
      const socketPath = `${settings.socketDirectory}/disk-${index}`;
      await this.#serve(settings.disks[index]?.name ?? '', disk, socketPath);
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
    for (const { server } of this.#stacks.splice(0).reverse()) await server.stop();
    const disks = this.#disks;
    this.#disks = undefined;
    await disks?.close();
  }

  get figures(): DisksFigures {
    const epochBytes = this.#source?.epochBytes ?? [];
    const disks = (this.#disks?.disks ?? []).map((disk, index) => ({
      sizeBytes: disk.sizeBytes,
      bufferedBytes: (epochBytes[index] ?? 0) + disk.stats.bufferedBytes,
      overlayBytes: disk.overlayBytes,
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
      disks: this.#opened(),
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
    this.#opened().commit(epoch);
  }

  async apply(epoch: number): Promise<void> {
    await this.#opened().apply(epoch);
  }

  async dropUncommitted(): Promise<void> {
    await this.#target?.stop();
    await this.#opened().dropUncommitted();
  }

  async promote(): Promise<void> {
    await this.#opened().promote();
  }

  /** A journal that a crash has left is replayed, whatever the role. */
  async #open(settings: DisksSettings): Promise<SecondaryDisks> {
    const images: ImageFile[] = [];
    try {
      for (const { name: _, ...options } of settings.disks) {
        images.push(await ImageFile.open({ ...options, log: this.#log }));
      }
      return await SecondaryDisks.open({
        vm: settings.vm,
        images,
        directory: settings.stateDirectory,
        live: settings.role === 'live',
        log: this.#log,
        onUnfit: (reason) => this.#events.unfit(reason),
      });
    } catch (error) {
      for (const image of images) await image.close();
      throw error;
    }
  }

  async #serve(name: string, disk: BlockLayer, socketPath: string): Promise<void> {
    const base = new DeadlineDisk(disk);
    const index = this.#stacks.length;
    const replicated = new ReplicatedDisk({
      base,
      onWrite: (operation) => this.#source?.forward(index, operation),
      isSending: () => this.#lastSource?.sending ?? false,
    });
    const exports = new Map([[name, replicated]]);
    const server = new NbdServer({ socketPath, exports, log: this.#log });
    this.#stacks.push({ base, replicated, server });
    await server.start();
  }

  #opened(): SecondaryDisks {
    assert(this.#disks !== undefined, 'The disks are not open');
    return this.#disks;
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
