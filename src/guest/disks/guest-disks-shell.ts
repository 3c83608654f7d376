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
 *
 * Each image that is not read-only has a DiskGeneration: whose data it is, and what changed. Of a
 * shared one the other host is told nothing by it: there is one image, which is open where the
 * guest runs, and nothing of it is sent.
 */
import { getHeapStatistics } from 'node:v8';
import {
  type AcceptedImage,
  type BlockLayer,
  DeadlineDisk,
  DiskGeneration,
  type EpochTotals,
  type GenerationSummary,
  type ImageClaim,
  ImageFile,
  type Lineage,
  NbdServer,
  type NbdServerOptions,
  type PrimaryImage,
  ReplicatedDisk,
  type ResyncProgress,
  SecondaryDisks,
  SharedImage,
} from '../../blockrep/index.js';
import type { DiskFormat } from '../../config/index.js';
import { assert, type Logger } from '../../lib/index.js';
import { PeerMemory, peerProcess } from '../../linux/index.js';
import type { Link } from '../../transport/index.js';
import { DiskSource } from './disk-source-shell.js';
import { DiskTarget, type StagedDisk } from './disk-target-shell.js';
import type { VerifyProgress, VerifyReport } from './disk-verification-shell.js';
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
  /** Another host has the same image, and at most one of them opens it. */
  readonly shared?: boolean | undefined;
  /** Creates a missing image with this size; an existing one must have it. */
  readonly sizeBytes?: number;
}

/** What to start with; plain data. */
export interface DisksSettings {
  readonly role: DisksRole;
  /** This host's name, for the records of the images. */
  readonly host: string;
  readonly disks: readonly DiskPlace[];
  /** Where the sockets for QEMU are made. */
  readonly socketDirectory: string;
  /** QEMU's of its RAM file, to which large writes may refer; default: to nothing. */
  readonly ramDescriptor?: number;
  /** The guest's name: its journal is called after it. */
  readonly vm: string;
  /** Where records and journal are, and unlinked spill files are made. */
  readonly stateDirectory: string;
}

/** Per disk, in their order. */
export interface StartedDisks {
  readonly sockets: readonly string[];
  readonly sizes: readonly number[];
  /** Of the disks that are not read-only: whose data they were when they were opened. */
  readonly claims: readonly ImageClaim[];
}

/** What a source of one session starts from. */
export interface SourceBeginning {
  /** The running epoch. */
  readonly epoch: number;
  /** The secondary's, of the disks that are not read-only, in their order. */
  readonly verdicts: readonly AcceptedImage[];
  /** Undefined: as fast as it goes. */
  readonly resyncBytesPerSecond: number | undefined;
}

/** What the disks tell of themselves. */
export interface DisksEvents {
  /** As source: the epoch's writes have reached their bound. Again and again until it ends. */
  overBound(epoch: number): void;
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
  /** Undefined: read-only, or nobody has said yet whose data it is. */
  readonly generation: GenerationSummary | undefined;
  /** As source, until the first edge. */
  readonly resync: ResyncProgress | undefined;
}

/** All disks in numbers. */
export interface DisksFigures {
  readonly disks: readonly DiskFigures[];
  readonly verifying: VerifyProgress | undefined;
  /** Of this thread: its heap and its buffers. */
  readonly memoryBytes: number;
}

interface DiskStack {
  readonly name: string;
  readonly base: BlockLayer;
  readonly replicated: ReplicatedDisk;
  readonly server: NbdServer;
  /** Undefined: read-only, or shared: the peer has the same. */
  readonly generation: DiskGeneration | undefined;
}

export class DiskStacks {
  readonly #log: Logger;
  readonly #events: DisksEvents;
  readonly #stacks: DiskStack[] = [];
  /** The images and their overlays; in role `live` without any. */
  #disks: SecondaryDisks | undefined;
  /** As `#disks`, open longer. */
  #generations: readonly (DiskGeneration | undefined)[] = [];
  #images: readonly (ImageFile | SharedImage)[] = [];
  #source: DiskSource | undefined;
  /** Its link may go on sending after the source has ended. */
  #lastSource: DiskSource | undefined;
  #target: DiskTarget | undefined;
  /** What `begin` has begun to write down. */
  #applied: Promise<void> = Promise.resolve();
  #boundCheck: NodeJS.Timeout | undefined;

  constructor(log: Logger, events: DisksEvents) {
    this.#log = log;
    this.#events = events;
  }

  /** Opens the images and listens. Throws OperatorError for what can't be had; then `stop`. */
  async start(settings: DisksSettings): Promise<StartedDisks> {
    const disks = await this.#open(settings);
    const claims = this.#replicated.flatMap((generation) => generation?.claim ?? []);
    const sockets: string[] = [];
    for (const [index, disk] of disks.disks.entries()) {
      const socketPath = `${settings.socketDirectory}/disk-${index}`;
      const name = settings.disks[index]?.name ?? '';
      await this.#serve(name, disk, { socketPath, ...lentMemory(settings) });
      sockets.push(socketPath);
    }
    this.#boundCheck = setInterval(() => this.#checkBound(), BOUND_CHECK_MS);
    return { sockets, sizes: this.#stacks.map(({ base }) => base.sizeBytes), claims };
  }

  /** Finishes what QEMU has asked for, closes the images. Idempotent. */
  async stop(): Promise<void> {
    clearInterval(this.#boundCheck);
    this.#source?.end();
    this.#disks?.forgetPromotion();
    await this.#target?.stop();
    for (const { server } of this.#stacks.splice(0).reverse()) await server.stop();
    const disks = this.#disks;
    this.#disks = undefined;
    if (disks === undefined) return;
    await this.#target?.idle();
    const flushes = await Promise.allSettled(disks.disks.map((disk) => disk.flush()));
    await disks.close();
    // The record of an image that may lack something does not call it clean.
    for (const [index, generation] of this.#generations.entries()) {
      if (flushes[index]?.status === 'fulfilled') await generation?.close();
    }
  }

  get figures(): DisksFigures {
    const source = this.#source;
    const epochBytes = source?.epochBytes ?? [];
    const resync = source?.resync ?? [];
    const disks = (this.#disks?.disks ?? []).map((disk, index) => ({
      sizeBytes: disk.sizeBytes,
      bufferedBytes: (epochBytes[index] ?? 0) + disk.stats.bufferedBytes,
      overlayBytes: disk.overlayBytes,
      generation: this.#generations[index]?.summary,
      resync: resync[index],
    }));
    const heap = getHeapStatistics();
    const memoryBytes = heap.total_heap_size + heap.external_memory;
    return { disks, verifying: source?.verifying, memoryBytes };
  }

  /**
   * The guest writes without a peer from now on: before it starts, and before anything that it said
   * in a session leaves after that session.
   */
  async beginAlone(): Promise<void> {
    // Side by side: what `images` tells is the new generation of all of them from here on.
    await Promise.all(this.#generations.map((generation) => generation?.beginAlone()));
  }

  /** What a secondary judges this host by. */
  images(): PrimaryImage[] {
    return this.#replicated.flatMap((generation) => generation?.primary ?? []);
  }

  /** A secondary is there: it gets what it lacks, and what the guest writes from now on. */
  async attachSource(link: Link, beginning: SourceBeginning): Promise<void> {
    this.#source?.end();
    this.#source = new DiskSource({
      link,
      disks: this.#stacks,
      ...beginning,
      onEqual: (index, { candidates, differing, sentBytes }) => {
        const disk = this.#stacks[index]?.name;
        this.#log.info('Disk synchronised', { disk, candidates, differing, sentBytes });
      },
    });
    this.#lastSource = this.#source;
    for (const generation of this.#replicated) await generation?.beginPeering();
  }

  /** A primary is there: its writes are taken. */
  attachTarget(link: Link, lineages: readonly Lineage[]): void {
    this.#target = new DiskTarget({
      link,
      disks: this.#opened(),
      generations: this.#replicated,
      lineages,
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

  syncRound(): Promise<number> {
    return this.#attached().syncRound();
  }

  syncStored(): Promise<void> {
    return this.#attached().syncStored();
  }

  edge(epoch: number): Promise<EpochTotals[]> {
    const source = this.#attached();
    assert(source.epoch === epoch, `The disks are in epoch ${source.epoch}, not ${epoch}`);
    return source.edge();
  }

  /** Nothing, if the session is over. */
  committed(epoch: number): void {
    this.#source?.committed(epoch);
  }

  verify(index: number, options: { repair: boolean }): Promise<VerifyReport> {
    return this.#attached().verify(index, options);
  }

  beginPause(): void {
    for (const { replicated } of this.#stacks) replicated.beginPause();
  }

  async endPause(): Promise<void> {
    await Promise.all(this.#stacks.map(({ replicated }) => replicated.endPause()));
  }

  /** What the guest has written to shared disks so far is durable when it resolves. */
  async flushShared(): Promise<void> {
    const shared = this.#stacks.filter((_, index) => this.#isShared(index));
    await Promise.all(shared.map(({ base }) => base.flush()));
  }

  /** The guest is paused: another host may open the shared images when it resolves. */
  async leaveShared(): Promise<void> {
    await this.flushShared();
    await Promise.all(this.#shared.map((image) => image.leave()));
  }

  /** The guest goes on here after all. Throws OperatorError if another host has an image. */
  async enterSharedAgain(): Promise<void> {
    await Promise.all(this.#shared.map((image) => image.enterAgain()));
  }

  /** The shared images that were written to since `leaveShared`. */
  async changedShared(): Promise<string[]> {
    const shared = this.#shared;
    const changed = await Promise.all(shared.map((image) => image.hasChanged()));
    return shared.filter((_, index) => changed[index]).map(({ path }) => path);
  }

  // As target.

  commit(epoch: number): void {
    this.#opened().commit(epoch);
  }

  async apply(epoch: number): Promise<void> {
    await this.#opened().apply(epoch);
    await this.#target?.applied(epoch);
  }

  /**
   * The guest may run behind it; `promote` has to follow. Shared images are opened, and not written
   * to before. `epoch` is undefined if nothing of the disks was sent.
   */
  async begin(epoch: number | undefined): Promise<void> {
    const disks = this.#opened();
    const entered = Promise.all(this.#shared.map((image) => image.enter()));
    entered.catch(() => undefined);
    if (epoch !== undefined) {
      disks.commit(epoch);
      await disks.apply(epoch);
    }
    await entered;
    disks.expectPromotion();
    if (epoch === undefined) return;
    // Written down while the guest begins; like an epoch of which its source has not heard.
    this.#applied = this.#target?.applied(epoch) ?? Promise.resolve();
    this.#applied.catch(() => undefined);
  }

  async dropUncommitted(): Promise<void> {
    await this.#target?.stop();
    await this.#opened().dropUncommitted();
  }

  async promote(): Promise<void> {
    await this.#opened().promote();
  }

  /**
   * A journal that a crash has left is replayed, whatever the role; that is a change of the image
   * like any other, so its record is read before.
   */
  async #open(settings: DisksSettings): Promise<SecondaryDisks> {
    const images: (ImageFile | SharedImage)[] = [];
    const generations: (DiskGeneration | undefined)[] = [];
    try {
      for (const place of settings.disks) {
        const image = await this.#image(place, settings.role);
        images.push(image);
        generations.push(
          image.readOnly ? undefined : await this.#generationOf(image, place.name, settings),
        );
      }
    } catch (error) {
      for (const image of images) await image.close();
      for (const generation of generations) await generation?.close();
      throw error;
    }
    try {
      this.#disks = await SecondaryDisks.open({
        vm: settings.vm,
        images,
        directory: settings.stateDirectory,
        live: settings.role === 'live',
        log: this.#log,
        beforeMerge: (epoch) => this.#becomeGuests(epoch),
        onUnfit: (reason) => this.#events.unfit(reason),
      });
    } catch (error) {
      // The records do not call images clean that may have been replayed in part.
      for (const image of images) await image.close();
      throw error;
    }
    this.#generations = generations;
    this.#images = images;
    const { recoveredEpoch } = this.#disks;
    for (const generation of generations) {
      // Of another state nothing is known that an epoch could add to.
      const stands = generation?.summary?.state === 'standby';
      if (stands && recoveredEpoch !== undefined) generation?.applied(recoveredEpoch);
    }
    return this.#disks;
  }

  async #image(place: DiskPlace, role: DisksRole): Promise<ImageFile | SharedImage> {
    const { path, format, sizeBytes, readOnly, shared } = place;
    const log = this.#log;
    if (shared !== true || readOnly === true) {
      return ImageFile.open({ path, format, readOnly, sizeBytes, log });
    }
    if (role === 'live') return SharedImage.open({ path, format, log });
    assert(sizeBytes !== undefined, 'The size of a shared disk is known before it is opened');
    return SharedImage.elsewhere({ path, format, sizeBytes, log });
  }

  async #generationOf(
    image: ImageFile | SharedImage,
    disk: string,
    settings: DisksSettings,
  ): Promise<DiskGeneration> {
    const { vm, host, stateDirectory: stateDir } = settings;
    const shared = image instanceof SharedImage;
    const generation = await DiskGeneration.open({
      ...{ stateDir, vm, disk, host, image, shared, log: this.#log },
    });
    // Found out now, while the guest runs elsewhere.
    if (shared) generation.assertStartable();
    return generation;
  }

  /** Of the images that a peer has its own of. */
  get #replicated(): (DiskGeneration | undefined)[] {
    return this.#generations.map((generation, index) => {
      return this.#isShared(index) ? undefined : generation;
    });
  }

  get #shared(): SharedImage[] {
    return this.#images.filter((image) => image instanceof SharedImage);
  }

  #isShared(index: number): boolean {
    return this.#images[index] instanceof SharedImage;
  }

  /** A promotion, before the overlays are merged: what is in them is what this host changes. */
  async #becomeGuests(epoch: number | undefined): Promise<void> {
    await this.#applied;
    if (epoch !== undefined) await this.#target?.applied(epoch);
    await this.beginAlone();
    for (const [index, disk] of this.#opened().disks.entries()) {
      const changes = this.#generations[index]?.changes;
      for (const { offset, length } of disk.overlayRanges()) changes?.mark(offset, length);
    }
  }

  async #serve(
    name: string,
    disk: BlockLayer,
    place: Pick<NbdServerOptions, 'socketPath' | 'borrowMemory'>,
  ): Promise<void> {
    const base = new DeadlineDisk(disk);
    const index = this.#stacks.length;
    const { changes } = this.#generations[index] ?? {};
    const generation = this.#replicated[index];
    const replicated = new ReplicatedDisk({
      base,
      onWrite: (operation) => this.#source?.forward(index, operation),
      isSending: () => this.#lastSource?.sending ?? false,
      ...(changes === undefined ? {} : { changes }),
    });
    const exports = new Map([[name, replicated]]);
    const server = new NbdServer({ ...place, exports, lendsFiles: true, log: this.#log });
    this.#stacks.push({ name, base, replicated, server, generation });
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

/** QEMU's memory, as a disk's server borrows it. */
function lentMemory({ ramDescriptor }: DisksSettings): Pick<NbdServerOptions, 'borrowMemory'> {
  if (ramDescriptor === undefined) return {};
  return { borrowMemory: (fd) => PeerMemory.open(peerProcess(fd), ramDescriptor) };
}
