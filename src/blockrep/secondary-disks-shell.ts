/**
 * All disks of a guest on the secondary, and the journal that keeps them at one epoch together.
 *
 *   stage -> closeEpoch (each disk; the last one's resolves when the epoch is durable in the
 *   journal, with one sync) -> commit (memory only) -> apply (to the images, not synced)
 *
 * A crash at any moment leaves journal and images of which `open` makes exactly the end of the last
 * committed epoch, on all disks, or of its successor if that one was stored already. Epochs without
 * any disk operation leave no trace: their content is that of the epoch before.
 *
 * The initial synchronisation writes the images directly. The journal forgets what it knew before
 * the first such write, and the images are synced before the first epoch behind it is stored.
 *
 * The disks are *unfit* once something failed for good: `unfit` says why; SVM writes, `closeEpoch`,
 * `commit`, `apply` and `promote` are refused from then on. The journal stays as it is, for a later
 * start to repair the images with.
 */
import { describeError, type Logger, ProtocolError } from '../lib/index.js';
import { type DiskOperation, type EpochTotals, operationLength } from './disk-operation.js';
import { type BufferedOperation, type CloseResult, EpochBuffer } from './epoch-buffer.js';
import { Fitness } from './fitness.js';
import { journalNames, openJournal, retireJournal } from './journal-recovery-shell.js';
import type { Journal } from './journal-shell.js';
import { DISK_DATA_BYTES_MAX, SECONDARY_BOUNDS, type SecondaryBounds } from './limits.js';
import { SecondaryDisk } from './secondary-disk-shell.js';
import { FileDirectory, type StorageDirectory, type StorageImage } from './storage-shell.js';

export interface SecondaryDisksOptions {
  /** The guest's name: its journal's files are called after it. */
  readonly vm: string;
  /** In the order of the machine definition. Closed by `close`; by the caller if `open` throws. */
  readonly images: readonly StorageImage[];
  /** Where the journal is kept and unlinked spill files are made. */
  readonly directory: string;
  readonly log: Logger;
  /** These are a PVM's disks: mode direct, no journal is kept. One that is left is replayed. */
  readonly live?: boolean;
  readonly bounds?: Partial<SecondaryBounds>;
  /** Where the journal's files are; for tests. */
  readonly storage?: StorageDirectory;
  /**
   * A promotion: all that is committed is in the images, at the end of this epoch, and nothing else
   * is yet. When it resolves the overlays are going to be merged; a failure fails the promotion.
   */
  beforeMerge?(epoch: number | undefined): Promise<void>;
  /** Overlay or buffer passed the soft bound: ask for a checkpoint. Once per applied epoch. */
  onOverBound?(): void;
  /** This secondary can not take over any more. Once. */
  onUnfit?(reason: string): void;
}

export interface SecondaryDisksStats {
  /** Staged, in memory and in the journal only. */
  readonly bufferedBytes: number;
  readonly bufferedOperations: number;
  /** Staged, in the journal only. */
  readonly spilledBytes: number;
  /** Operations that arrived after the disks had become unfit. */
  readonly operationsRefused: number;
}

export class SecondaryDisks {
  readonly disks: readonly SecondaryDisk[];
  readonly #options: SecondaryDisksOptions;
  readonly #bounds: SecondaryBounds;
  readonly #fitness: Fitness;
  readonly #buffer: EpochBuffer;
  #journal: Journal | undefined;
  #recoveredEpoch: number | undefined;
  /** Epoch of the images by what was applied here. */
  #appliedEpoch: number | undefined;
  /** The images hold synchronised data that no sync has made durable yet. */
  #syncedDirty = false;
  /** Synchronised since the last sync for that. */
  #unsyncedBytes = 0;
  /** Synced behind a synchronisation: the wait for it, then the work. */
  #syncTimer: NodeJS.Timeout | undefined;
  #syncing: Promise<void> | undefined;
  #forgetting: Promise<void> | undefined;
  #overBoundTold = false;
  #operationsRefused = 0;
  #promotion: Promise<void> | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: SecondaryDisksOptions) {
    this.#options = options;
    this.#bounds = { ...SECONDARY_BOUNDS, ...options.bounds };
    this.#fitness = new Fitness(options.log, (reason) => options.onUnfit?.(reason));
    this.#buffer = new EpochBuffer(this.#bounds, options.images.length);
    this.disks = options.images.map((image, index) => {
      return new SecondaryDisk({
        image,
        spillDirectory: options.directory,
        log: options.log,
        live: options.live === true,
        bounds: this.#bounds,
        fitness: this.#fitness,
        staged: () => this.#buffer.ofDisk(index),
        onGrown: () => this.#tellOverBound(),
      });
    });
  }

  /**
   * Replays what a crash left in the journal. Throws OperatorError when the journal can not be
   * used, saying why and what to do, and DiskError when a file can not be read or written.
   */
  static async open(options: SecondaryDisksOptions): Promise<SecondaryDisks> {
    const disks = new SecondaryDisks(options);
    const opening = {
      vm: options.vm,
      images: options.images,
      storage: options.storage ?? new FileDirectory(options.directory),
      segmentBytes: disks.#bounds.journalSegmentBytes,
      log: options.log,
      onFailure: (reason: string) => disks.#fitness.fail(reason),
    };
    if (options.live === true || takesNothing(options.images)) {
      disks.#recoveredEpoch = await retireJournal(opening);
      return disks;
    }
    const { journal, epoch } = await openJournal(opening);
    disks.#journal = journal;
    disks.#recoveredEpoch = epoch;
    disks.#appliedEpoch = epoch;
    return disks;
  }

  /** The images were at its end at the opening; undefined: the journal knew nothing. */
  get recoveredEpoch(): number | undefined {
    return this.#recoveredEpoch;
  }

  /** Why these disks can not take over; undefined while they can. */
  get unfit(): string | undefined {
    return this.#fitness.unfit;
  }

  get overBound(): boolean {
    const { softBytes } = this.#bounds;
    const buffered = this.#buffer.memoryBytes + this.#buffer.spilledBytes;
    return buffered >= softBytes || this.disks.some((disk) => disk.overlayBytes >= softBytes);
  }

  get stats(): SecondaryDisksStats {
    return {
      bufferedBytes: this.#buffer.memoryBytes + this.#buffer.spilledBytes,
      bufferedOperations: this.#buffer.operationCount,
      spilledBytes: this.#buffer.spilledBytes,
      operationsRefused: this.#operationsRefused,
    };
  }

  /**
   * Takes a write of the PVM's running epoch, in the order of the calls; `data` is copied. A
   * returned promise is back-pressure: read no more from the link until it resolves (it never
   * rejects). Throws ProtocolError for a broken order or a range outside of the disk.
   */
  stage(disk: number, epoch: number, operation: DiskOperation): Promise<void> | undefined {
    const journal = this.#checkPeerRange(disk, operation.offset, operationLength(operation));
    if (operation.kind === 'write' && operation.data.length > DISK_DATA_BYTES_MAX) {
      throw new ProtocolError(`A disk write of ${operation.data.length} bytes is too long`);
    }
    if (this.unfit !== undefined) {
      this.#operationsRefused += 1;
      return undefined;
    }
    const result = this.#buffer.stage(disk, epoch, operation);
    this.#tellOverBound();
    if (result.kind === 'full') {
      this.#fitness.fail(`The epoch buffer is full: ${result.reason}`);
      return undefined;
    }
    const entry = result.operation;
    const written = journal.append({ epoch, disk, operation: entry, data: result.data });
    const onlyThere = entry.kind === 'write' && entry.data === undefined;
    return onlyThere ? written : journal.room();
  }

  /** Ok only when everything of this disk's epoch is here; for the last disk: and durable. */
  async closeEpoch(disk: number, epoch: number, totals: EpochTotals): Promise<CloseResult> {
    if (this.unfit !== undefined) return { ok: false, reason: this.unfit };
    const journal = this.#checkDisk(disk);
    const result = this.#buffer.close(disk, epoch, totals);
    const all = this.#buffer.toStore(epoch);
    if (!result.ok || all === undefined) return result;
    try {
      await this.#store(journal, epoch, all);
    } catch (error) {
      this.#fitness.fail(`Epoch ${epoch} can not be stored: ${describeError(error)}`);
    }
    if (this.unfit !== undefined) return { ok: false, reason: this.unfit };
    if (this.#buffer.stored(epoch)) return { ok: true };
    return { ok: false, reason: `Epoch ${epoch} was dropped while it was stored` };
  }

  /**
   * From now on the epoch's writes will be applied even if the primary dies. Needs `closeEpoch` of
   * all disks.
   */
  commit(epoch: number): void {
    this.#fitness.assertFit();
    this.#buffer.commit(epoch);
  }

  /** Writes a committed epoch into the images and discards the overlays. The SVM is stopped. */
  apply(epoch: number): Promise<void> {
    return this.#inTurn(async () => {
      this.#fitness.assertFit();
      await this.#apply(epoch, (disk, work) => disk.locked(work));
    });
  }

  /** The guest may run before it is `promote`d: from now on its flushes wait for that. */
  expectPromotion(): void {
    for (const disk of this.disks) disk.expectPromotion();
  }

  /** There will be no promotion: flushes that wait for one fail. Nothing, if there was one. */
  forgetPromotion(): void {
    for (const disk of this.disks) disk.forgetPromotion();
  }

  /** Forgets what the primary did not commit: it will not come back, after a crash neither. */
  async dropUncommitted(): Promise<void> {
    const epoch = this.#buffer.dropUncommitted();
    if (epoch === undefined || this.unfit !== undefined) return;
    // A failure has made the disks unfit: whoever wants to promote them hears of it.
    await this.#journal?.drop(epoch).catch(() => undefined);
  }

  /**
   * Makes these the guest's only disks. Committed epochs that were not applied are applied first
   * and the overlays discarded (the SVM must be stopped then); else the overlays stay the guest's
   * truth. Uncommitted writes are dropped. Resolves when the guest may run on; the overlays are
   * merged behind it (`whenMerged`). Throws when unfit.
   */
  promote(): Promise<void> {
    this.#promotion ??= this.#inTurn(() => this.#promote());
    return this.#promotion;
  }

  /** Resolves when the images alone hold the promoted disks, durably. */
  async whenMerged(): Promise<void> {
    await Promise.all(this.disks.map((disk) => disk.whenMerged()));
  }

  /** Initial synchronisation, straight into an image, while there is no SVM yet. */
  async syncWrite(disk: number, offset: number, data: Buffer): Promise<void> {
    await this.#beforeSync(disk, offset, data.length);
    await this.disks[disk]?.syncWrite(offset, data);
    this.#unsyncedBytes += data.length;
    this.#syncSoon();
    if (this.#unsyncedBytes < this.#bounds.unsyncedBytes) return;
    this.#unsyncedBytes = 0;
    await this.#flushImages();
  }

  async syncZero(disk: number, offset: number, length: number): Promise<void> {
    await this.#beforeSync(disk, offset, length);
    await this.disks[disk]?.syncZero(offset, length);
  }

  /** What was synchronised so far is durable when it resolves, or these disks are unfit. */
  async storeSynced(): Promise<void> {
    if (!this.#syncedDirty) return;
    this.#syncedDirty = false;
    this.#unsyncedBytes = 0;
    try {
      await this.#flushImages();
    } catch (error) {
      this.#fitness.fail(`The images can't be synced: ${describeError(error)}`);
    }
  }

  /**
   * Closes the images too. In good order the journal is left empty; committed epochs that were not
   * applied stay in it for the next opening.
   */
  async close(): Promise<void> {
    clearTimeout(this.#syncTimer);
    await this.#syncing;
    clearTimeout(this.#syncTimer);
    await Promise.allSettled([this.#turn, this.whenMerged()]);
    const journal = this.#journal;
    this.#journal = undefined;
    try {
      await journal?.settled();
      const keep = this.unfit !== undefined || this.#buffer.committedEpochs.length > 0;
      if (!keep) await journal?.reset(this.#appliedEpoch, { clean: true });
    } catch (error) {
      const reason = describeError(error);
      this.#options.log.warn('The journal could not be emptied', { reason });
    }
    await journal?.close();
    for (const disk of this.disks) await disk.close();
  }

  async #store(journal: Journal, epoch: number, totals: readonly EpochTotals[]): Promise<void> {
    if (this.#syncedDirty) {
      this.#syncedDirty = false;
      await this.#flushImages();
    }
    // The first epoch behind a synchronisation is worth knowing even if it changed nothing.
    const empty = totals.every(({ operations }) => operations === 0);
    if (!empty || !journal.tellsEpoch) await journal.endEpoch(epoch, totals);
  }

  async #apply(
    epoch: number,
    locked: (disk: SecondaryDisk, work: () => Promise<void>) => Promise<void>,
  ): Promise<void> {
    const readBack = (operation: BufferedOperation) => this.#readBack(operation);
    // Asked for before anything is written: a wrong epoch must not get half-way.
    const work = this.disks.map((disk, index) => {
      return { disk, operations: this.#buffer.operations(index, epoch) };
    });
    const results = await Promise.allSettled(
      work.map(({ disk, operations }) => locked(disk, () => disk.apply(operations, readBack))),
    );
    for (const result of results) {
      if (result.status === 'fulfilled') continue;
      this.#fitness.fail(`Epoch ${epoch} could not be applied: ${describeError(result.reason)}`);
      throw result.reason;
    }
    this.#overBoundTold = false;
    this.#buffer.release(epoch);
    this.#appliedEpoch = epoch;
    this.#journal?.applied(epoch);
  }

  async #readBack(operation: BufferedOperation): Promise<Buffer> {
    if (this.#journal === undefined) throw new Error('The journal is closed');
    return this.#journal.read(operation);
  }

  async #promote(): Promise<void> {
    await this.#allLocked([...this.disks], async () => {
      this.#fitness.assertFit();
      for (const epoch of this.#buffer.committedEpochs) {
        await this.#apply(epoch, (_disk, work) => work());
      }
      await this.dropUncommitted();
      this.#fitness.assertFit();
      await this.#options.beforeMerge?.(this.#appliedEpoch);
      const seal = this.#seal();
      for (const disk of this.disks) disk.promote(seal);
    });
  }

  /** Locks every disk, then runs `work`. */
  #allLocked(disks: SecondaryDisk[], work: () => Promise<void>): Promise<void> {
    const [first, ...rest] = disks;
    if (first === undefined) return work();
    return first.locked(() => this.#allLocked(rest, work));
  }

  /**
   * Until the images hold all epochs durably and the journal is empty, a crash replays it: so the
   * guest's writes stay in the overlays that long.
   */
  async #seal(): Promise<void> {
    const journal = this.#journal;
    if (journal === undefined) return;
    await journal.reset(undefined, { clean: true });
    this.#journal = undefined;
    await journal.close();
    const { vm, directory, storage = new FileDirectory(directory) } = this.#options;
    for (const name of journalNames(vm)) await storage.remove(name);
  }

  async #beforeSync(disk: number, offset: number, length: number): Promise<void> {
    const journal = this.#checkPeerRange(disk, offset, length);
    if (journal.tellsEpoch || this.#forgetting !== undefined) {
      if (!this.#buffer.isEmpty) {
        throw new ProtocolError('Epochs are on their way: no synchronisation');
      }
      this.#appliedEpoch = undefined;
      this.#forgetting ??= journal.reset(undefined, { clean: false });
      await this.#forgetting;
      this.#forgetting = undefined;
    }
    this.#syncedDirty = true;
  }

  /** A sync that fails makes the disks unfit: no later one would tell of it again. */
  #syncSoon(): void {
    if (this.#syncTimer !== undefined || this.#syncing !== undefined) return;
    this.#syncTimer = setTimeout(() => {
      this.#syncTimer = undefined;
      this.#unsyncedBytes = 0;
      this.#syncing = this.#flushImages()
        .catch((error) => this.#fitness.fail(`The images can't be synced: ${describeError(error)}`))
        .finally(() => {
          this.#syncing = undefined;
          if (this.#unsyncedBytes > 0) this.#syncSoon();
        });
    }, this.#bounds.syncAfterMs);
  }

  async #flushImages(): Promise<void> {
    await Promise.all(this.#options.images.map((image) => image.flush()));
  }

  /** One after the other: applying and promoting. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  #checkDisk(disk: number): Journal {
    if (this.disks[disk] === undefined) throw new ProtocolError(`There is no disk ${disk}`);
    if (this.#journal === undefined || this.#promotion !== undefined) {
      throw new ProtocolError('This disk has been promoted and takes no more of its peer');
    }
    return this.#journal;
  }

  #checkPeerRange(disk: number, offset: number, length: number): Journal {
    const journal = this.#checkDisk(disk);
    const { sizeBytes, readOnly } = this.disks[disk] as SecondaryDisk;
    if (readOnly) throw new ProtocolError('This disk is read-only and takes nothing of its peer');
    if (this.#options.images[disk]?.isShared === true) {
      throw new ProtocolError('This disk is shared and takes nothing of its peer');
    }
    if (offset + length > sizeBytes || length <= 0) {
      throw new ProtocolError(
        `A disk write of ${length} bytes at ${offset} is outside of ${sizeBytes} bytes`,
      );
    }
    return journal;
  }

  #tellOverBound(): void {
    if (this.#overBoundTold || !this.overBound) return;
    this.#overBoundTold = true;
    this.#options.onOverBound?.();
  }
}

/** All that could differ from the peer's is the same image: no journal is kept. */
function takesNothing(images: readonly StorageImage[]): boolean {
  const isShared = images.some((image) => image.isShared === true);
  return isShared && images.every((image) => image.isShared === true || image.readOnly);
}
