/**
 * What the destination of a migration does with its guest, in the order of a migration: launch it,
 * take its pages, load its devices, take its disks, let it run, take the pages that it lacks.
 *
 * The guest comes into a QEMU that waits for it, whose load writes nothing but what the devices
 * want. Where QEMU does not take it so (`Emulator.loadResets`), loading devices resets them first,
 * which writes ROM contents into guest RAM over the pages of the source. A guest that has all its
 * pages runs on a private mapping of the RAM file, like an SVM: the load's writes are dropped with
 * its private copies. A guest that may lack pages can't (there are no faults to serve on private
 * copies); there the pages that a load writes are kept aside and put back.
 */
import type { Configuration } from '../config/index.js';
import { parseMachineDefinition } from '../emulator/index.js';
import type { LeaseMemory } from '../failover/index.js';
import {
  type FaultReport,
  FaultTarget,
  type Guest,
  type ReceivedGuest,
  receiveGuest,
  releaseHiddenPages,
} from '../guest/index.js';
import {
  countBytes,
  describeError,
  type Logger,
  PAGE_SIZE_BYTES,
  type PageRange,
  ProtocolError,
} from '../lib/index.js';
import {
  decodeBatch,
  type HelloSection,
  movesDisks,
  openBackup,
  type PageBatch,
  PageDecoder,
  type PageTarget,
  pageBitmapOf,
} from '../migration/index.js';
import { digestRam, type Hello } from '../replication/index.js';
import type { Session } from '../transport/index.js';
import { ArrivedDigest } from './arrived-digest.js';
import { discardKept, eraseRam, KeptImage } from './kept-image-shell.js';
import { LOAD_PAGES_MAX } from './limits.js';

export interface ArrivingOptions {
  readonly configuration: Configuration;
  readonly hello: Hello;
  readonly section: HelloSection;
  readonly lease: LeaseMemory | undefined;
  readonly session: Session;
  readonly log: Logger;
  /** Somebody waits for the pages at these offsets. */
  readonly onFaults: (offsets: readonly number[]) => void;
  /** These came by the fault lane, and are in RAM; `waitsUs`: of waits that have ended. */
  readonly onPlaced: (ranges: readonly PageRange[], waitsUs: readonly number[]) => void;
  /** Nobody serves the faults any more. */
  readonly onFailure: (error: Error) => void;
  /** A part of the way is done; for the log. */
  readonly onPart: (part: string) => void;
}

export class ArrivingGuest {
  readonly #options: ArrivingOptions;
  readonly #received: ReceivedGuest;
  readonly #target: PageTarget;
  readonly #decoder: PageDecoder;
  readonly #ramPages: number;
  /** Checked when they came, so that they need not be when they are applied. */
  readonly #decoded = new WeakMap<Buffer, PageBatch>();
  /** Pages are placed, not written: the guest may touch them at any time. */
  #placing = false;
  /** While the devices are loaded: what the pages that a load writes had. */
  #kept: Map<number, Buffer> | undefined;
  /** The pages that the guest waits for; of one that may lack some. */
  #lane: FaultTarget | undefined;
  #mayHaveSpoken = false;
  #image: KeptImage | undefined;
  /** The pages that a load writes. */
  #loadPages: readonly PageRange[] = [];
  /** In a `--verify` run that lacks pages: what has come, and what it must come to. */
  #verifying: { readonly digest: ArrivedDigest; readonly expected: number } | undefined;

  private constructor(
    options: ArrivingOptions,
    received: ReceivedGuest,
    lane: FaultTarget | undefined,
  ) {
    this.#options = options;
    this.#received = received;
    this.#lane = lane;
    const { ram } = received.guest.emulator;
    this.#ramPages = ram.sizeBytes / PAGE_SIZE_BYTES;
    this.#target = {
      copyOut: (offset, target) => ram.copyOut(offset, target),
      writeFile: (offset, bytes) => this.#write(offset, bytes),
    };
    this.#decoder = new PageDecoder(this.#ramPages, this.#target);
  }

  /** Throws OperatorError or ProtocolError with what the source's operator must know. */
  static async launch(options: ArrivingOptions): Promise<ArrivingGuest> {
    const { configuration, hello, section, lease, log, session } = options;
    // It may run before all its pages are here.
    const lacksPages = section.choices.mode !== 'precopy';
    const lane = lacksPages ? openLane(options) : undefined;
    // Beside the launch: its code is warm by the time that somebody waits.
    void lane?.attach(session);
    let arriving: ArrivingGuest | undefined;
    try {
      const received = await receiveGuest(configuration, hello, {
        role: lacksPages ? 'arriving' : 'standby',
        lacksPages,
        incoming: true,
        lease,
        log,
      });
      arriving = new ArrivingGuest(options, received, lane);
      if (lane !== undefined) arriving.#borrowFaults(lane);
      await arriving.#makeReady(lacksPages);
      const { ram } = arriving.guest.emulator;
      if (section.choices.assisted)
        arriving.#image = await KeptImage.load(configuration, { ram, log });
      return arriving;
    } catch (error) {
      if (arriving === undefined) await lane?.end();
      else await arriving.stop();
      throw error;
    }
  }

  /** What this host had kept of its RAM, and it has now. */
  get image(): KeptImage | undefined {
    return this.#image;
  }

  get guest(): Guest {
    return this.#received.guest;
  }

  /** Somebody may have heard of what it does here. Before that all of it can be undone. */
  get mayHaveSpoken(): boolean {
    return this.#mayHaveSpoken;
  }

  /** What becomes of this host's images, for the source. */
  get verdictsJson(): string {
    return JSON.stringify(this.#received.verdicts);
  }

  /** The session's disk and network links are the guest's. */
  async attach(session: Session): Promise<void> {
    const { guest, lineages } = this.#received;
    const disks = this.#movesDisks ? guest.disks.attachTarget(session, lineages) : undefined;
    const network = guest.network.attach(session, { role: 'target' });
    await Promise.all([network, disks]);
  }

  /** A later session's faults link: what is waited for is asked for there. */
  async attachFaults(session: Session): Promise<void> {
    await this.#lane?.attach(session);
  }

  /** Ends the guest, and what serves its faults. */
  async stop(): Promise<void> {
    await this.guest.stop();
    await this.#lane?.end();
  }

  /** Some disk's content comes with it. */
  get #movesDisks(): boolean {
    return movesDisks(this.#options.section.disks);
  }

  /** The pages of a batch that is whole and sound; `crc` is its CRC-32C. Throws ProtocolError. */
  rangesOf(batch: Buffer, crc: number): PageRange[] {
    const decoded = decodeBatch(batch, this.#ramPages, crc);
    this.#decoded.set(batch, decoded);
    return decoded.runs.map(({ first, count }) => {
      return { offset: first * PAGE_SIZE_BYTES, length: count * PAGE_SIZE_BYTES };
    });
  }

  /** Writes those pages of the batch that are in `ranges`, which `rangesOf` has told before. */
  apply(batch: Buffer, ranges: readonly PageRange[]): void {
    const decoded = this.#decoded.get(batch) ?? decodeBatch(batch, this.#ramPages);
    const wanted = countBytes(ranges) / PAGE_SIZE_BYTES;
    // Nearly always all of it; a map of all RAM for each batch would cost more than the pages.
    const only = wanted === decoded.pages ? undefined : pageBitmapOf(this.#ramPages, ranges);
    this.#decoder.applyDecoded(decoded, only);
  }

  /** These pages come later: whoever touches one waits for it. */
  expect(missing: readonly PageRange[]): void {
    const pages = this.#missingPages;
    const { loadResets } = this.guest.emulator;
    if (loadResets) this.#keepLoadPages(missing);
    this.#options.onPart('keepPages');
    pages.start(missing);
    this.#placing = true;
    // Pages that a load writes are kept here before they are placed.
    this.#lane?.serve({ places: !loadResets });
    this.#options.onPart('expectPages');
  }

  /**
   * The guest stands at the point of the source's pause. Checks all of RAM by `ramDigest`, now or,
   * of a guest that lacks pages, once they are here.
   */
  async load(deviceState: Buffer, ramDigest: number | undefined): Promise<void> {
    const { emulator } = this.guest;
    if (ramDigest !== undefined) {
      if (this.#placing) this.#verifyArrivals(ramDigest);
      else {
        const complaint = this.#complaint(await digestRam(emulator.ram), ramDigest);
        if (complaint !== undefined) throw new ProtocolError(complaint);
      }
    }
    const resets = emulator.loadResets;
    await emulator.loadDeviceState(deviceState);
    // Else what it has written belongs to the devices.
    if (!resets) return;
    if (!this.#placing) {
      await emulator.dropPrivate(emulator.scanPrivate());
      return;
    }
    const kept = this.#kept ?? new Map<number, Buffer>();
    this.#kept = undefined;
    const written = emulator.scanWritten();
    const pages = this.#missingPages;
    for (const offset of pagesOf(written)) {
      const bytes = kept.get(offset);
      if (bytes === undefined) {
        throw new ProtocolError(`Loading the devices has written the page at ${offset}`);
      }
      pages.discard([{ offset, length: PAGE_SIZE_BYTES }]);
      pages.place(offset, bytes);
    }
    this.#lane?.placeThere();
  }

  /**
   * Makes the disks those of the end of `epoch`, opens the shared ones, and lets the guest run.
   * Nothing that it says leaves, nothing is written to a shared image, and none of its flushes is
   * answered, before `speak`: a crash may undo all of it.
   */
  async start(epoch: number): Promise<void> {
    const { disks, network, emulator, definition } = this.guest;
    const { onPart } = this.#options;
    network.committed(epoch);
    const promoted = network.promote('held');
    if (definition.disks.length > 0) await disks.begin(this.#movesDisks ? epoch : undefined);
    onPart('beginDisks');
    await promoted;
    onPart('promoteNetwork');
    await emulator.resume();
    network.goLive({ announce: false });
    onPart('resume');
  }

  /** The guest is this host's, and that is written down: it is heard from now on. */
  async speak(announce: boolean): Promise<void> {
    const { disks, network, emulator } = this.guest;
    const { onPart } = this.#options;
    await disks.promote();
    onPart('promoteDisks');
    this.#mayHaveSpoken = true;
    network.open();
    releaseHiddenPages(emulator, this.#options.log);
    if (!announce) return;
    network.announce();
    emulator.announce().catch((error) => {
      this.#options.log.warn('QEMU does not announce', { reason: describeError(error) });
    });
  }

  /** Nothing is missing any more. */
  async complete(): Promise<void> {
    if (this.#placing) await this.#missingPages.finish();
    const verifying = this.#verifying;
    if (verifying === undefined) return;
    this.#verifying = undefined;
    // The guest has run on it for long: an operator must know, and no other host has a newer one.
    const complaint = this.#complaint(verifying.digest.value, verifying.expected);
    if (complaint !== undefined) this.#options.log.error(complaint);
  }

  /** In the pause, so that nothing that is here can change before it is digested. */
  #verifyArrivals(expected: number): void {
    const digest = new ArrivedDigest(this.#ramPages);
    const page = Buffer.alloc(PAGE_SIZE_BYTES);
    for (let offset = 0; offset < this.#ramPages * PAGE_SIZE_BYTES; offset += PAGE_SIZE_BYTES) {
      if (this.#missingPages.isMissing(offset)) continue;
      this.guest.emulator.ram.copyOut(offset, page);
      digest.add(offset, page);
    }
    this.#verifying = { digest, expected };
  }

  #complaint(found: number | undefined, expected: number): string | undefined {
    const hex = (digest: number): string => digest.toString(16).padStart(8, '0');
    if (found === undefined) return 'RAM was never whole';
    if (found !== expected) return `RAM has the digest ${hex(found)}, not ${hex(expected)}`;
    this.#options.log.info('RAM verified', { digest: hex(found) });
    return undefined;
  }

  /** It is this host's for good: what was kept of it is old, and what came is what it has begun with. */
  async settled(): Promise<void> {
    const { configuration, log, section } = this.#options;
    this.#image = undefined;
    await this.#lane?.end();
    this.#lane = undefined;
    await discardKept(configuration, log);
    if (section.choices.mode === 'precopy') this.guest.past.arrivedBy = section.migration;
  }

  /**
   * Takes pages that are in `missing` from the source's backup file; gives those that it had.
   * Rejects with BackupError, or the system's error, before anything is placed.
   */
  async fill(
    path: string,
    options: { readonly migration: string; readonly missing: readonly PageRange[] },
  ): Promise<PageRange[]> {
    const file = await openBackup(path);
    try {
      const found = file.migrationId.toString('hex');
      if (found !== options.migration || file.ramPages !== this.#ramPages) {
        throw new ProtocolError(`${path} is of migration ${found}, not of ${options.migration}`);
      }
      const only = pageBitmapOf(this.#ramPages, options.missing);
      await file.apply(this.#target, { only });
      return options.missing.flatMap(({ offset, length }) => [
        ...file.pages.ranges(offset / PAGE_SIZE_BYTES, (offset + length) / PAGE_SIZE_BYTES),
      ]);
    } finally {
      await file.close();
    }
  }

  get missing(): PageRange[] {
    return this.#placing ? this.#missingPages.missingRanges() : [];
  }

  #write(offset: number, bytes: Buffer): void {
    if (!this.#placing) {
      this.guest.emulator.ram.writeFile(offset, bytes);
      return;
    }
    this.#digest(offset, bytes);
    if (this.#kept !== undefined) this.#keepArriving(offset, bytes);
    this.#missingPages.place(offset, bytes);
  }

  /** Before they are placed: who waits for one of them may write to it at once. */
  #keepArriving(offset: number, bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += PAGE_SIZE_BYTES) {
      if (!this.#missingPages.isMissing(offset + at)) continue;
      this.#keep(offset + at, bytes.subarray(at, at + PAGE_SIZE_BYTES));
    }
  }

  #borrowFaults(lane: FaultTarget): void {
    lane.borrow(this.#missingPages, {
      onReport: (report) => this.#hear(report),
      onPassedOn: (offset, bytes) => {
        this.#write(offset, bytes);
        this.#options.onPlaced([{ offset, length: bytes.length }], []);
      },
    });
  }

  #hear({ faulted, placed, waitsUs, contents }: FaultReport): void {
    for (const { offset, bytes } of contents) this.#digest(offset, Buffer.from(bytes.buffer));
    if (faulted.length > 0) this.#options.onFaults(faulted);
    if (placed.length + waitsUs.length > 0) this.#options.onPlaced(placed, waitsUs);
  }

  /** Of pages that have come, by either way. */
  #digest(offset: number, bytes: Buffer): void {
    this.#verifying?.digest.add(offset, bytes);
  }

  /** What is here already of the pages that a load writes; what comes of them is kept, too. */
  #keepLoadPages(missing: readonly PageRange[]): void {
    this.#kept = new Map();
    const absent = pageBitmapOf(this.#ramPages, missing);
    for (const offset of pagesOf(this.#loadPages)) {
      if (!absent.has(offset / PAGE_SIZE_BYTES)) this.#keep(offset);
    }
  }

  /** `arriving`: what the page is about to be; else it is what it is. */
  #keep(offset: number, arriving?: Buffer): void {
    const kept = this.#kept;
    if (kept === undefined || kept.size >= LOAD_PAGES_MAX) return;
    const bytes = Buffer.alloc(PAGE_SIZE_BYTES);
    if (arriving === undefined) this.guest.emulator.ram.copyOut(offset, bytes);
    else arriving.copy(bytes);
    kept.set(offset, bytes);
  }

  /** RAM is what the source takes it for, all zeroes, and what the load does to it is known. */
  async #makeReady(lacksPages: boolean): Promise<void> {
    const { emulator } = this.guest;
    if (emulator.loadResets) {
      if (lacksPages) await this.#findLoadPages();
      return;
    }
    await emulator.dropPrivate(emulator.scanPrivate());
    eraseRam(emulator.ram);
  }

  /** A load of what it has just started with writes what every load does. */
  async #findLoadPages(): Promise<void> {
    const { emulator } = this.guest;
    emulator.scanWritten();
    await emulator.loadDeviceState(await emulator.saveDeviceState());
    this.#loadPages = emulator.scanWritten();
    // It starts with ROM contents; the source takes its RAM for all zeroes.
    eraseRam(emulator.ram);
  }

  get #missingPages() {
    const { missingPages } = this.guest.emulator;
    if (missingPages === undefined) throw new Error('The guest was not launched to lack pages');
    return missingPages;
  }
}

function* pagesOf(ranges: readonly PageRange[]): Generator<number> {
  for (const { offset, length } of ranges) {
    for (let at = offset; at < offset + length; at += PAGE_SIZE_BYTES) yield at;
  }
}

/** It knows no guest yet. */
function openLane({ log, section, hello, onFailure }: ArrivingOptions): FaultTarget {
  const { memoryMib } = parseMachineDefinition(hello.definition, 'peer');
  return new FaultTarget({
    ...{ log, onFailure },
    ramSizeBytes: memoryMib * 2 ** 20,
    near: section.choices.background,
    tellsBytes: hello.policy.verify,
  });
}
