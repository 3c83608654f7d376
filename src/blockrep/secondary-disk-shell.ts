/**
 * One disk of a guest, whatever the role: what its QEMU sees.
 *
 *   standby     the SVM reads overlay over image, its writes go to the overlay; an epoch of the PVM
 *               is applied to the image, which discards the overlay. The image is the PVM's disk as
 *               of the last applied checkpoint.
 *   sealing     promoted: the overlay is the guest's truth and still takes its writes, until the
 *               journal can not be replayed over the image any more.
 *   promoting   the overlay is copied into the image behind the guest's back, writes go to the
 *               image, reads look at what is left of the overlay.
 *   direct      the image alone: the overlay is empty and gone, or there never was one (`live`).
 *
 * Locking is by range, in whole overlay blocks: a block that is written in part is read, changed
 * and written back. Applying and promoting lock the whole disk for a moment. Whose turn it is and
 * what is committed is for `SecondaryDisks` to say, which owns the disks of a guest.
 *
 * A full spill disk or a failed image write makes the disks *unfit*: SVM writes are refused from
 * then on. Nothing half-written is ever served as a good disk.
 */
import { createHash } from 'node:crypto';
import {
  type Deferred,
  deferred,
  describeError,
  type Logger,
  ProtocolError,
} from '../lib/index.js';
import {
  type BlockLayer,
  type ByteRange,
  type CachedFile,
  type RangeQuery,
  readInto,
  type ZeroOptions,
} from './block-layer-shell.js';
import type { EpochTotals } from './disk-operation.js';
import { applyOperations, type ReadBack } from './epoch-apply-shell.js';
import type { BufferedOperation } from './epoch-buffer.js';
import { DiskError } from './errors.js';
import { Fitness } from './fitness.js';
import {
  COPY_CHUNK_BYTES,
  OVERLAY_BLOCK_BYTES,
  SECONDARY_BOUNDS,
  type SecondaryBounds,
} from './limits.js';
import type { LentData } from './nbd-references.js';
import { Overlay } from './overlay-shell.js';
import { RangeLock } from './range-lock-shell.js';
import type { StorageImage } from './storage-shell.js';

export interface SecondaryDiskOptions {
  readonly image: StorageImage;
  /** Where an unlinked spill file is made when the overlay outgrows its memory. */
  readonly spillDirectory: string;
  readonly log: Logger;
  /** The guest's only disk from the beginning: mode direct. */
  readonly live?: boolean;
  readonly bounds?: Partial<SecondaryBounds>;
  /** Shared by the disks of a guest. */
  readonly fitness?: Fitness;
  /** What is staged for this disk, for the figures. */
  staged?(): EpochTotals;
  /** The overlay has grown. */
  onGrown?(): void;
}

export interface SecondaryDiskStats {
  readonly mode: 'standby' | 'promoting' | 'direct';
  readonly unfit: string | undefined;
  readonly overlayBytes: number;
  /** Staged for this disk, zeroes and trims included. */
  readonly bufferedBytes: number;
  readonly bufferedOperations: number;
  /** Of the overlay, in its file. */
  readonly spilledBytes: number;
}

export class SecondaryDisk implements BlockLayer {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #options: SecondaryDiskOptions;
  readonly #image: StorageImage;
  readonly #overlay: Overlay;
  readonly #fitness: Fitness;
  readonly #lock = new RangeLock();
  #mode: 'standby' | 'sealing' | 'promoting' | 'direct';
  #merge: Promise<void> = Promise.resolve();
  /** Expected, while flushes wait for it; resolved by it. */
  #promotion: Deferred<void> | undefined;

  constructor(options: SecondaryDiskOptions) {
    const bounds = { ...SECONDARY_BOUNDS, ...options.bounds };
    this.#options = options;
    this.#image = options.image;
    this.sizeBytes = options.image.sizeBytes;
    this.readOnly = options.image.readOnly;
    this.#overlay = new Overlay(options.image, bounds, options.spillDirectory);
    this.#fitness = options.fitness ?? new Fitness(options.log);
    this.#mode = options.live === true ? 'direct' : 'standby';
  }

  get keepsData(): boolean {
    return this.#mode !== 'direct';
  }

  get overlayBytes(): number {
    return this.#overlay.bytes;
  }

  get stats(): SecondaryDiskStats {
    const staged = this.#options.staged?.() ?? { operations: 0, bytes: 0 };
    return {
      mode: this.#mode === 'sealing' ? 'promoting' : this.#mode,
      unfit: this.#fitness.unfit,
      overlayBytes: this.#overlay.bytes,
      bufferedBytes: staged.bytes,
      bufferedOperations: staged.operations,
      spilledBytes: this.#overlay.spilledBytes,
    };
  }

  // What the guest does.

  read(offset: number, length: number): Promise<Buffer> {
    if (this.#mode === 'direct') return this.#image.read(offset, length);
    return this.#shared(offset, length, () => this.#overlay.read(offset, length));
  }

  async readInto(offset: number, target: Buffer): Promise<void> {
    if (this.#mode === 'direct') return readInto(this.#image, offset, target);
    (await this.read(offset, target.length)).copy(target);
  }

  cachedFile(offset: number, length: number): CachedFile | undefined {
    return this.#mode === 'direct' ? this.#image.cachedFile?.(offset, length) : undefined;
  }

  writeLent(offset: number, data: LentData): boolean {
    return this.#mode === 'direct' && this.#image.writeLent?.(offset, data) === true;
  }

  async write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    if (this.#mode === 'direct') return this.#image.write(offset, data, fua);
    await this.#exclusive(offset, data.length, async () => {
      if (this.#overlayTakesWrites()) {
        await this.#toOverlay(() => this.#overlay.write(offset, data));
        return;
      }
      await this.#overlay.mergeEdges(offset, data.length);
      await this.#image.write(offset, data, false);
      this.#overlay.forget(offset, data.length);
    });
    if (fua) await this.flush();
  }

  async writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void> {
    if (this.#mode === 'direct') return this.#image.writeZeroes(offset, length, options);
    await this.#exclusive(offset, length, async () => {
      if (this.#overlayTakesWrites()) {
        await this.#toOverlay(() => this.#overlay.writeZeroes(offset, length));
        return;
      }
      await this.#overlay.mergeEdges(offset, length);
      await this.#image.writeZeroes(offset, length, { ...options, fua: false });
      this.#overlay.forget(offset, length);
    });
    if (options.fua) await this.flush();
  }

  trim(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length, { mayTrim: true, fua: false });
  }

  /**
   * In standby there is nothing to do: the SVM's own writes die with this process anyway. Unless a
   * promotion is expected: what a flush answers is then told to others after it.
   */
  async flush(): Promise<void> {
    if (this.#mode === 'standby') {
      if (this.#promotion === undefined) return;
      await this.#promotion.promise;
    }
    await this.#merge;
    await this.#image.flush();
  }

  /** Closes the image too. */
  async close(): Promise<void> {
    await Promise.allSettled([this.#merge]);
    await this.#overlay.close();
    await this.#image.close();
  }

  dataRanges(query: RangeQuery = { offset: 0, length: this.sizeBytes }): ByteRange[] {
    if (this.#mode === 'direct') return this.#image.dataRanges(query);
    return [{ offset: query.offset, length: query.length }];
  }

  // What `SecondaryDisks` does.

  /** Runs `work` while the guest can not touch the disk. */
  locked<T>(work: () => Promise<T>): Promise<T> {
    return this.#exclusive(0, this.sizeBytes, work);
  }

  /** Writes an epoch into the image and discards the overlay. Call it `locked`, SVM stopped. */
  async apply(operations: readonly BufferedOperation[], readBack: ReadBack): Promise<void> {
    await applyOperations(this.#image, operations, readBack);
    await this.#overlay.discard();
  }

  /** Flushes wait for `promote` from now on. */
  expectPromotion(): void {
    if (this.#mode !== 'standby' || this.#promotion !== undefined) return;
    this.#promotion = deferred();
    // Perhaps nobody waits for it.
    this.#promotion.promise.catch(() => undefined);
  }

  /** There will be none: flushes that wait for it fail. */
  forgetPromotion(): void {
    const promotion = this.#promotion;
    this.#promotion = undefined;
    promotion?.reject(new DiskError("The disk does not become this guest's", 'EIO'));
  }

  /**
   * The guest's only disk from now on; it may run. Call it `locked`. `seal` is run behind its back:
   * when it resolves nothing but this disk writes to the image, after a crash neither.
   */
  promote(seal: Promise<void>): void {
    this.#mode = 'sealing';
    this.#merge = this.#mergeAfter(seal);
    this.#promotion?.resolve();
    // Whoever asks for `whenMerged` or `flush` gets the failure; here it is only logged.
    this.#merge.catch((error) => {
      this.#options.log.error('The overlay could not be merged', { reason: describeError(error) });
    });
  }

  /** Resolves when the image alone holds the promoted disk, durably. */
  whenMerged(): Promise<void> {
    return this.#merge;
  }

  /** Initial synchronisation, straight into the image, while there is no SVM yet. */
  syncWrite(offset: number, data: Buffer): Promise<void> {
    return this.#sync(offset, data.length, () => this.#image.write(offset, data, false));
  }

  syncZero(offset: number, length: number): Promise<void> {
    const options = { mayTrim: true, fua: false };
    return this.#sync(offset, length, () => this.#image.writeZeroes(offset, length, options));
  }

  /** The image below the overlay. */
  readImage(offset: number, length: number): Promise<Buffer> {
    return this.#image.read(offset, length);
  }

  /** Ranges of the image below the overlay that are no holes. */
  imageRanges(): ByteRange[] {
    return this.#image.dataRanges();
  }

  /** Ranges that a promotion is going to merge into the image. */
  overlayRanges(): ByteRange[] {
    return this.#overlay.ranges();
  }

  /** SHA-256 of the image below the overlay, hexadecimal. Reads all of it. */
  digest(): Promise<string> {
    return digestLayer(this.#image);
  }

  #overlayTakesWrites(): boolean {
    return this.#mode === 'standby' || this.#mode === 'sealing';
  }

  #shared<T>(offset: number, length: number, work: () => Promise<T>): Promise<T> {
    return this.#lock.run({ ...blockRange(offset, length), exclusive: false }, work);
  }

  #exclusive<T>(offset: number, length: number, work: () => Promise<T>): Promise<T> {
    return this.#lock.run({ ...blockRange(offset, length), exclusive: true }, work);
  }

  /** A write of the SVM that fails leaves it with a disk that no guest ever had. */
  async #toOverlay(work: () => Promise<void>): Promise<void> {
    this.#fitness.assertFit();
    try {
      await work();
    } catch (error) {
      this.#fitness.fail(`The overlay can not be written: ${describeError(error)}`);
      throw error;
    }
    this.#options.onGrown?.();
  }

  async #mergeAfter(seal: Promise<void>): Promise<void> {
    await seal;
    const steps = await this.locked(async () => {
      this.#mode = 'promoting';
      return this.#overlay.mergeSteps();
    });
    for (const step of steps) {
      const end = step.offset + step.length;
      for (let offset = step.offset; offset < end; offset += COPY_CHUNK_BYTES) {
        const length = Math.min(COPY_CHUNK_BYTES, end - offset);
        await this.#exclusive(offset, length, () => this.#overlay.mergeRange(offset, length));
      }
    }
    await this.#image.flush();
    this.#mode = 'direct';
    await this.#overlay.close();
  }

  async #sync(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    if (!this.#overlay.isEmpty) throw new ProtocolError('The SVM runs already: no synchronisation');
    try {
      await this.#exclusive(offset, length, work);
    } catch (error) {
      this.#fitness.fail(`The image can not be synchronised: ${describeError(error)}`);
      throw error;
    }
  }
}

/** The range in whole overlay blocks. */
function blockRange(offset: number, length: number): ByteRange {
  const start = offset - (offset % OVERLAY_BLOCK_BYTES);
  const end = Math.ceil((offset + length) / OVERLAY_BLOCK_BYTES) * OVERLAY_BLOCK_BYTES;
  return { offset: start, length: end - start };
}

/** SHA-256 of everything that the layer reads as, hexadecimal. */
export async function digestLayer(layer: BlockLayer): Promise<string> {
  const hash = createHash('sha256');
  for (let offset = 0; offset < layer.sizeBytes; offset += COPY_CHUNK_BYTES) {
    const length = Math.min(COPY_CHUNK_BYTES, layer.sizeBytes - offset);
    hash.update(await layer.read(offset, length));
  }
  return hash.digest('hex');
}
