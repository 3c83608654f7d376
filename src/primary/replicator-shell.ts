/**
 * Sends one session's state to the secondary: pages, disk writes, device states.
 *
 * In: the core's instructions (`syncRound`, `presendRound`, `capture`). Out: frames on the
 * session's links, in the order that the secondary's checks expect; nothing here decides anything.
 *
 * The network is told of the epoch's edge here and does the rest itself: src/guest/network.
 *
 * Every epoch has one RAM framer and one count of disk operations. They are closed at the epoch
 * edge, while the guest is paused; what is written after it belongs to the next epoch. The guest
 * runs again before the paused pages have crossed the wire: they were copied, which is what the
 * pause is for.
 */
import { setImmediate } from 'node:timers/promises';
import {
  DISK_DATA_BYTES_MAX,
  type DiskOperation,
  EpochSender,
  type EpochTotals,
  encodeDiskMessage,
  type ReplicatedDisk,
} from '../blockrep/index.js';
import type { Emulator } from '../emulator/index.js';
import type { GuestNetwork } from '../guest/index.js';
import { type Logger, PAGE_SIZE_BYTES } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  digestRam,
  type EncodedMessage,
  encodeControl,
  encodeDeviceState,
  encodeRamEnd,
  type RamFrame,
  RamFramer,
} from '../replication/index.js';
import type { Link, Session } from '../transport/index.js';
import { DISK_SYNC_CLUSTERS, FRAMES_PER_TURN } from './limits.js';

/** The parts of the PVM that are replicated. */
export interface ReplicatedParts {
  readonly emulator: Emulator;
  readonly disks: readonly ReplicatedDisk[];
  readonly network: GuestNetwork;
}

export interface ReplicatorOptions {
  readonly session: Session;
  readonly parts: ReplicatedParts;
  readonly epoch: number;
  /** Send a digest of all guest RAM with each checkpoint; makes the pause long. */
  readonly verify: boolean;
  readonly log: Logger;
}

/** What a capture left behind when the guest runs again. */
export interface Captured {
  readonly resumedAtUs: number;
  readonly pauseUs: number;
  /** Pages of the whole epoch, and those that were copied while the guest was paused. */
  readonly pages: number;
  readonly pagesInPause: number;
  /** Resolves when all of the epoch is in the links' hands; rejects when the session ended. */
  readonly shipped: Promise<void>;
  /**
   * Resolves when the images hold durably what the guest was told that they do. No output of the
   * epoch may leave before. Rejects when an image failed; handled, if nobody listens.
   */
  readonly synced: Promise<unknown>;
}

/** Progress of the initial synchronisation, in bytes. */
export interface SyncProgress {
  phase: string;
  doneBytes: number;
  totalBytes: number;
}

/** What was taken out of the guest while it was paused. */
interface Taken {
  readonly epoch: number;
  readonly framer: RamFramer;
  readonly frames: readonly RamFrame[];
  readonly deviceState: Buffer;
  readonly disks: readonly EpochTotals[];
  readonly verifyDigest: number | undefined;
}

/** One session's sender; `end` it when the session is over. */
export class Replicator {
  readonly #session: Session;
  readonly #parts: ReplicatedParts;
  readonly #verify: boolean;
  readonly #log: Logger;
  #framer: RamFramer;
  readonly #diskSenders: readonly EpochSender[];
  #forwarding = false;
  #ended = false;
  sync: SyncProgress | undefined;

  constructor(options: ReplicatorOptions) {
    this.#session = options.session;
    this.#parts = options.parts;
    this.#verify = options.verify;
    this.#log = options.log;
    this.#framer = new RamFramer(options.epoch);
    this.#diskSenders = options.parts.disks.map((_disk, index) => new EpochSender(index));
  }

  /** Bytes of disk writes that the running epoch has put into the secondary's buffer. */
  get epochDiskBytes(): number {
    return this.#diskSenders.reduce((sum, sender) => sum + sender.totals.bytes, 0);
  }

  /** Stops tracking and forwarding; idempotent. Does not close the session. */
  end(): void {
    this.#ended = true;
    for (const disk of this.#parts.disks) disk.setMode('untracked');
  }

  /**
   * Sends what was written since the last round, all of it the first time; resolves to its size.
   */
  async syncRound(first: boolean): Promise<number> {
    const { emulator, disks } = this.#parts;
    if (first) {
      emulator.scanWritten();
      for (const [index, disk] of disks.entries()) this.#startTracking(index, disk);
    }
    const ranges = first ? emulator.ram.dataRanges() : emulator.scanWritten();
    const ramBytes = ranges.reduce((sum, range) => sum + range.length, 0);
    const diskBytes = disks.reduce((sum, disk) => sum + disk.dirtyBytes, 0);
    const sync = { phase: 'ram', doneBytes: 0, totalBytes: ramBytes + diskBytes };
    this.sync = sync;
    for (const frame of this.#framer.cut(ranges, (at, target) =>
      emulator.ram.copyOut(at, target),
    )) {
      await this.#sendRam(this.#framer.encode(frame));
      sync.doneBytes += frame.pages * PAGE_SIZE_BYTES;
    }
    sync.phase = 'disk';
    for (const [index, disk] of disks.entries()) {
      for (let left = disk.dirtyBytes; left > 0; ) {
        const bytes = await this.#sendDirty(index, disk);
        if (bytes === 0) break;
        left -= bytes;
        sync.doneBytes += bytes;
      }
    }
    return ramBytes + disks.reduce((sum, disk) => sum + disk.dirtyBytes, 0);
  }

  /**
   * Sends the pages written since the last round while the guest runs; resolves to their number.
   */
  async presendRound(): Promise<number> {
    const { emulator } = this.#parts;
    const ranges = emulator.scanWritten();
    let pages = 0;
    for (const frame of this.#framer.cut(ranges, (at, target) =>
      emulator.ram.copyOut(at, target),
    )) {
      await this.#sendRam(this.#framer.encode(frame));
      pages += frame.pages;
    }
    // What is still on its way would compete with the pause for the processor.
    await this.#session.links.ram.flushed();
    return pages;
  }

  /**
   * The pause of a checkpoint, and the shipping of what it took. Whatever goes wrong in between,
   * the guest is resumed before this rejects; output is held only if the epoch edge was reached.
   */
  async capture(svmRuns: boolean): Promise<Captured> {
    const { emulator, disks, network } = this.#parts;
    const exact = await network.quiesce();
    const startUs = monotonicUs();
    let pausedUs = startUs;
    let takenUs = startUs;
    for (const disk of disks) disk.beginPause();
    let synced: Promise<unknown> = Promise.resolve();
    let taken: Taken;
    try {
      const paused = emulator.pause();
      // QEMU carries commands out in order: the save need not wait for the answer to the stop.
      const saving = emulator.saveDeviceState();
      // Marked as handled: whatever fails first is the error to report.
      saving.catch(() => undefined);
      await paused;
      pausedUs = monotonicUs();
      taken = await this.#take(saving, { exact, compares: svmRuns });
      takenUs = monotonicUs();
    } finally {
      const resumed = emulator.resume();
      network.resume();
      await resumed;
      synced = Promise.all(disks.map((disk) => disk.endPause()));
      synced.catch(() => undefined);
    }
    const resumedAtUs = monotonicUs();
    this.#log.debug('Captured', {
      stopUs: pausedUs - startUs,
      takeUs: takenUs - pausedUs,
      resumeUs: resumedAtUs - takenUs,
    });
    const pagesInPause = taken.frames.reduce((sum, frame) => sum + frame.pages, 0);
    return {
      resumedAtUs,
      pauseUs: resumedAtUs - startUs,
      pages: taken.framer.totals.pages + pagesInPause,
      pagesInPause,
      shipped: this.#ship(taken, { svmRuns, resumedAtUs }),
      synced,
    };
  }

  /** A write of the guest while it is protected; a promise when the secondary can't keep up. */
  forward(index: number, operation: DiskOperation): Promise<void> | undefined {
    const sender = this.#diskSenders[index];
    if (this.#ended || sender === undefined) return undefined;
    const link = this.#session.links.disk;
    for (const message of sender.messages(this.#framer.epoch, operation)) {
      send(link, encodeDiskMessage(message));
    }
    // A closed link ends the session elsewhere; the guest's write need not hear of it.
    return link.writable ? undefined : link.drained().catch(() => undefined);
  }

  async #take(
    saving: Promise<Buffer>,
    edge: { exact: boolean; compares: boolean },
  ): Promise<Taken> {
    const { emulator, network } = this.#parts;
    const copyOut = (at: number, target: Buffer) => emulator.ram.copyOut(at, target);
    const framer = this.#framer;
    const drained = network.drain();
    drained.catch(() => undefined);
    const frames: RamFrame[] = [];
    for (const frame of framer.cut(emulator.scanWritten(), copyOut)) {
      frames.push(frame);
      // Pre-send leaves a frame or two; a guest that outruns it leaves seconds of copying.
      if (frames.length % FRAMES_PER_TURN === 0) await setImmediate();
    }
    let calm = await drained;
    let deviceState = await saving;
    while (!calm) {
      deviceState = await emulator.saveDeviceState();
      calm = await network.drain();
    }
    if (!this.#ended) await network.edge(framer.epoch, edge);
    // Saving may itself have written guest RAM.
    frames.push(...framer.cut(emulator.scanWritten(), copyOut));
    if (!this.#forwarding) await this.#forwardFromHere();
    const verifyDigest = this.#verify ? await digestRam(emulator.ram) : undefined;
    const taken = {
      epoch: framer.epoch,
      framer,
      frames,
      deviceState,
      disks: this.#diskSenders.map((sender) => sender.totals),
      verifyDigest,
    };
    if (!this.#ended) this.#edge();
    return taken;
  }

  /** The secondary's image is emptied first: then its holes are this one's. */
  #startTracking(index: number, disk: ReplicatedDisk): void {
    disk.setMode('untracked');
    // The secondary has the same already, and has compared the size.
    if (disk.readOnly) return;
    disk.setMode('tracking');
    const whole = { offset: 0, length: disk.sizeBytes };
    send(this.#session.links.disk, encodeDiskMessage({ kind: 'syncZero', disk: index, ...whole }));
    disk.markAllDirty({ targetIsZeroes: true });
  }

  /** The last clusters of the initial synchronisation travel as writes of the first epoch. */
  async #forwardFromHere(): Promise<void> {
    this.#forwarding = true;
    for (const [index, disk] of this.#parts.disks.entries()) {
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

  /** The epoch ends here for every stream. The guest is paused and its output is read. */
  #edge(): void {
    const epoch = this.#framer.epoch;
    for (const sender of this.#diskSenders) {
      send(this.#session.links.disk, encodeDiskMessage(sender.end(epoch)));
    }
    this.#framer = new RamFramer(epoch + 1);
  }

  async #ship(
    taken: Taken,
    { svmRuns, resumedAtUs }: { svmRuns: boolean; resumedAtUs: number },
  ): Promise<void> {
    const { epoch, framer, deviceState, verifyDigest } = taken;
    for (const frame of taken.frames) await this.#sendRam(framer.encode(frame));
    await this.#sendRam(encodeDeviceState(epoch, deviceState));
    const { frames, pages, digest } = framer.totals;
    await this.#sendRam(encodeRamEnd({ epoch, frames, pages, verifyDigest }));
    const record = {
      epoch,
      ramFrames: frames,
      ramPages: pages,
      ramDigest: digest,
      deviceStateBytes: deviceState.length,
      disks: taken.disks,
      svmRuns,
      sinceResumeUs: Math.min(monotonicUs() - resumedAtUs, 0xffff_ffff),
    };
    send(this.#session.links.control, encodeControl({ kind: 'endRecord', record }));
    this.sync = undefined;
    this.#log.debug('Shipped', { epoch, pages, frames });
  }

  async #sendDirty(index: number, disk: ReplicatedDisk): Promise<number> {
    const link = this.#session.links.disk;
    let bytes = 0;
    for (const range of disk.takeDirty(DISK_SYNC_CLUSTERS)) {
      const end = range.offset + range.length;
      for (let offset = range.offset; offset < end; offset += DISK_DATA_BYTES_MAX) {
        const data = await disk.read(offset, Math.min(DISK_DATA_BYTES_MAX, end - offset));
        send(link, encodeDiskMessage({ kind: 'sync', disk: index, offset, data }));
        await link.drained();
      }
      bytes += range.length;
    }
    return bytes;
  }

  /** One frame, then a turn of the event loop: guest packets and disk requests come in between. */
  async #sendRam(message: EncodedMessage): Promise<void> {
    const link = this.#session.links.ram;
    send(link, message);
    await link.drained();
    await setImmediate();
  }
}

function send(link: Link, message: EncodedMessage): void {
  link.send(message.type, message.parts);
}
