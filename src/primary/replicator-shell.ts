/**
 * Sends one session's state to the secondary: pages and device states; it says when the threads of
 * the network and the disks send theirs.
 *
 * In: the core's instructions (`syncRound`, `presendRound`, `capture`). Out: frames on the
 * session's links, in the order that the secondary's checks expect; nothing here decides anything.
 *
 * Network and disks are told of the epoch's edge here and do the rest themselves: src/guest.
 *
 * Every epoch has one RAM framer. It is closed at the epoch edge, while the guest is paused; what
 * is written after it belongs to the next epoch. The guest runs again before the paused pages have
 * crossed the wire: they were copied, which is what the pause is for.
 */
import { setImmediate } from 'node:timers/promises';
import type { EpochTotals } from '../blockrep/index.js';
import type { LastSync } from '../config/index.js';
import type { Emulator } from '../emulator/index.js';
import type { GuestDisks, GuestNetwork } from '../guest/index.js';
import {
  ColoError,
  countBytes,
  type Logger,
  PAGE_SIZE_BYTES,
  type PageRange,
} from '../lib/index.js';
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
import { FRAMES_PER_TURN } from './limits.js';
import type { SecondarysRam } from './secondarys-ram-shell.js';

/** The parts of the PVM that are replicated. */
export interface ReplicatedParts {
  readonly emulator: Emulator;
  readonly disks: GuestDisks;
  readonly network: GuestNetwork;
}

export interface ReplicatorOptions {
  readonly session: Session;
  readonly parts: ReplicatedParts;
  readonly epoch: number;
  /** Send a digest of all guest RAM with each checkpoint; makes the pause long. */
  readonly verify: boolean;
  /** Undefined: the secondary has nothing. */
  readonly secondarysRam: SecondarysRam | undefined;
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

/** Progress of a synchronisation, in bytes of RAM; of the disks it is in their figures. */
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
  /** What the secondary's images lacked when it was last looked at. */
  #ended = false;
  sync: SyncProgress | undefined;
  readonly #beganAtUs = monotonicUs();
  #ramSentBytes = 0;
  #ramKeptBytes = 0;
  readonly #secondarysRam: SecondarysRam | undefined;

  constructor(options: ReplicatorOptions) {
    this.#session = options.session;
    this.#parts = options.parts;
    this.#verify = options.verify;
    this.#secondarysRam = options.secondarysRam;
    this.#log = options.log;
    this.#framer = new RamFramer(options.epoch);
  }

  /** The streams get no further edge; idempotent. Does not close the session. */
  end(): void {
    this.#ended = true;
  }

  /** What this session has come to until now: the first commit ends its synchronisation. */
  synced(): LastSync {
    const durationMs = Math.round((monotonicUs() - this.#beganAtUs) / 1000);
    return { durationMs, ramSentBytes: this.#ramSentBytes, ramKeptBytes: this.#ramKeptBytes };
  }

  /**
   * Sends what was written since the last round, all of it the first time; resolves to its size.
   */
  async syncRound(first: boolean): Promise<number> {
    const { emulator, disks } = this.#parts;
    if (first) emulator.scanWritten();
    const ranges = first ? emulator.ram.dataRanges() : emulator.scanWritten();
    const ramBytes = countBytes(ranges);
    const sync = { phase: 'ram', doneBytes: 0, totalBytes: ramBytes };
    this.sync = sync;
    if (first && this.#secondarysRam !== undefined) {
      await this.#syncCompared(this.#secondarysRam, ranges, sync);
    } else {
      await this.#sendPages(ranges, (pages) => {
        sync.doneBytes += pages * PAGE_SIZE_BYTES;
      });
    }
    // By now the disks may belong to another session.
    if (this.#ended) throw new ColoError('COLO_E_SESSION', 'The session is over');
    sync.phase = 'disk';
    return ramBytes + (await disks.syncRound());
  }

  /** The first round to a secondary that has a RAM of this guest: only what differs. */
  async #syncCompared(
    theirs: SecondarysRam,
    present: readonly PageRange[],
    sync: SyncProgress,
  ): Promise<void> {
    const { ram } = this.#parts.emulator;
    // What must be read on both sides, not what is sent.
    sync.totalBytes = ram.sizeBytes;
    for await (const { count, differing, same } of theirs.compare(ram, present)) {
      await this.#sendPages(differing);
      this.#ramKeptBytes += same * PAGE_SIZE_BYTES;
      sync.doneBytes += count * PAGE_SIZE_BYTES;
    }
  }

  /** Resolves to their number. */
  async #sendPages(
    ranges: readonly PageRange[],
    onSent?: (pages: number) => void,
  ): Promise<number> {
    const { ram } = this.#parts.emulator;
    let pages = 0;
    for (const frame of this.#framer.cut(ranges, (at, target) => ram.copyOut(at, target))) {
      await this.#sendRam(this.#framer.encode(frame));
      pages += frame.pages;
      onSent?.(frame.pages);
    }
    return pages;
  }

  /**
   * Sends the pages written since the last round while the guest runs; resolves to their number.
   */
  async presendRound(): Promise<number> {
    const pages = await this.#sendPages(this.#parts.emulator.scanWritten());
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
    disks.beginPause();
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
      synced = disks.endPause();
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

  async #take(
    saving: Promise<Buffer>,
    edge: { exact: boolean; compares: boolean },
  ): Promise<Taken> {
    const { emulator, network, disks } = this.#parts;
    const copyOut = (at: number, target: Buffer) => emulator.ram.copyOut(at, target);
    const framer = this.#framer;
    const { epoch } = framer;
    // QEMU has had the answers to all its disk requests, or the stop would not be done.
    const diskEdge = this.#ended ? Promise.resolve([]) : disks.edge(epoch);
    const drained = network.drain();
    for (const promise of [diskEdge, drained]) promise.catch(() => undefined);
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
    if (!this.#ended) await network.edge(epoch, edge);
    // Saving may itself have written guest RAM.
    frames.push(...framer.cut(emulator.scanWritten(), copyOut));
    const verifyDigest = this.#verify ? await digestRam(emulator.ram) : undefined;
    const taken = { epoch, framer, frames, deviceState, disks: await diskEdge, verifyDigest };
    if (!this.#ended) this.#framer = new RamFramer(epoch + 1);
    return taken;
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

  /** One frame, then a turn of the event loop: guest packets and disk requests come in between. */
  async #sendRam(message: EncodedMessage): Promise<void> {
    const link = this.#session.links.ram;
    for (const part of message.parts) this.#ramSentBytes += part.length;
    send(link, message);
    await link.drained();
    await setImmediate();
  }
}

function send(link: Link, message: EncodedMessage): void {
  link.send(message.type, message.parts, message.crc);
}
