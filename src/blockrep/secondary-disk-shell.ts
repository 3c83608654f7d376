/**
 * The secondary's disk: what the SVM's QEMU sees, and what the primary's replication feeds.
 *
 *   standby     SVM reads overlay over image, SVM writes go to the overlay; PVM writes are staged
 *               in the epoch buffer and reach the image when their epoch is applied, which discards
 *               the overlay. The image is the PVM's disk as of the last applied checkpoint.
 *   promoting   this is the only disk now: the overlay is copied into the image behind the guest's
 *               back, writes go to the image, reads look at what is left of the overlay.
 *   direct      the overlay is empty and gone.
 *
 * Locking is by range, in whole overlay blocks: a block that is written in part is read, changed
 * and written back. Applying and promoting lock the whole disk for a moment.
 *
 * A full spill disk or a failed image write makes the secondary *unfit*: `unfit` says why; SVM
 * writes, `closeEpoch`, `apply` and `promote` are refused from then on. Nothing half-written is
 * ever served as a good disk.
 */
import { createHash } from 'node:crypto';
import { ColoError, describeError, type Logger, ProtocolError } from '../lib/index.js';
import type { BlockLayer, ByteRange, RangeQuery, ZeroOptions } from './block-layer-shell.js';
import { type DiskOperation, type EpochTotals, operationLength } from './disk-operation.js';
import { applyOperations } from './epoch-apply-shell.js';
import { type CloseResult, EpochBuffer, type SpillRange } from './epoch-buffer.js';
import type { ImageFile } from './image-shell.js';
import {
  COPY_CHUNK_BYTES,
  OVERLAY_BLOCK_BYTES,
  SECONDARY_BOUNDS,
  type SecondaryBounds,
} from './limits.js';
import { Overlay } from './overlay-shell.js';
import { RangeLock } from './range-lock-shell.js';
import { SpillFile } from './spill-file-shell.js';

export interface SecondaryDiskOptions {
  readonly image: ImageFile;
  /** Where unlinked spill files are made. */
  readonly spillDirectory: string;
  readonly log: Logger;
  readonly bounds?: Partial<SecondaryBounds>;
  /** Overlay or buffer passed the soft bound: ask for a checkpoint. Once per applied epoch. */
  onOverBound?(): void;
  /** This secondary can not take over any more. Once. */
  onUnfit?(reason: string): void;
}

export interface SecondaryDiskStats {
  readonly mode: 'standby' | 'promoting' | 'direct';
  readonly unfit: string | undefined;
  readonly overBound: boolean;
  readonly overlayBytes: number;
  readonly bufferedBytes: number;
  readonly bufferedOperations: number;
  /** Of overlay and buffer together, in their files. */
  readonly spilledBytes: number;
  /** Operations that arrived after the disk had become unfit. */
  readonly operationsRefused: number;
}

export class SecondaryDisk implements BlockLayer {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #options: SecondaryDiskOptions;
  readonly #image: ImageFile;
  readonly #bounds: SecondaryBounds;
  readonly #overlay: Overlay;
  readonly #buffer: EpochBuffer;
  readonly #spill: SpillFile;
  readonly #lock = new RangeLock();
  readonly #spilling = new Set<Promise<void>>();
  #mode: SecondaryDiskStats['mode'] = 'standby';
  #unfit: string | undefined;
  #overBoundTold = false;
  #operationsRefused = 0;
  #discards = 0;
  #promotion: Promise<void> | undefined;
  #merge: Promise<void> = Promise.resolve();

  constructor(options: SecondaryDiskOptions) {
    this.#options = options;
    this.#image = options.image;
    this.sizeBytes = options.image.sizeBytes;
    this.readOnly = options.image.readOnly;
    this.#bounds = { ...SECONDARY_BOUNDS, ...options.bounds };
    this.#overlay = new Overlay(options.image, this.#bounds, options.spillDirectory);
    this.#buffer = new EpochBuffer(this.#bounds);
    this.#spill = new SpillFile(options.spillDirectory);
  }

  get keepsData(): boolean {
    return this.#mode !== 'direct';
  }

  /** Why this disk can not take over; undefined while it can. */
  get unfit(): string | undefined {
    return this.#unfit;
  }

  get overBound(): boolean {
    const buffered = this.#buffer.memoryBytes + this.#buffer.spilledBytes;
    return this.#overlay.bytes >= this.#bounds.softBytes || buffered >= this.#bounds.softBytes;
  }

  get stats(): SecondaryDiskStats {
    return {
      mode: this.#mode,
      unfit: this.#unfit,
      overBound: this.overBound,
      overlayBytes: this.#overlay.bytes,
      bufferedBytes: this.#buffer.memoryBytes + this.#buffer.spilledBytes,
      bufferedOperations: this.#buffer.operationCount,
      spilledBytes: this.#overlay.spilledBytes + this.#buffer.spilledBytes,
      operationsRefused: this.#operationsRefused,
    };
  }

  // What the guest does.

  read(offset: number, length: number): Promise<Buffer> {
    if (this.#mode === 'direct') return this.#image.read(offset, length);
    return this.#shared(offset, length, () => this.#overlay.read(offset, length));
  }

  async readInto(offset: number, target: Buffer): Promise<void> {
    if (this.#mode === 'direct') return this.#image.readInto(offset, target);
    (await this.read(offset, target.length)).copy(target);
  }

  async write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    if (this.#mode === 'direct') return this.#image.write(offset, data, fua);
    await this.#exclusive(offset, data.length, async () => {
      if (this.#mode === 'standby') {
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
      if (this.#mode === 'standby') {
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

  /** In standby there is nothing to do: the SVM's own writes die with this process anyway. */
  async flush(): Promise<void> {
    if (this.#mode === 'standby') return;
    await this.#merge;
    await this.#image.flush();
  }

  /** Closes the image too. */
  async close(): Promise<void> {
    await Promise.allSettled([...this.#spilling, this.#merge]);
    await this.#overlay.close();
    await this.#spill.close();
    await this.#image.close();
  }

  dataRanges(query: RangeQuery = { offset: 0, length: this.sizeBytes }): ByteRange[] {
    if (this.#mode === 'direct') return this.#image.dataRanges(query);
    return [{ offset: query.offset, length: query.length }];
  }

  // What the replication does.

  /**
   * Buffers a write of the PVM's running epoch, in the order of the calls; `data` is copied. A
   * returned promise is back-pressure: read no more from the link until it resolves (it never
   * rejects). Throws ProtocolError for a broken order or a range outside of the disk.
   */
  stage(epoch: number, operation: DiskOperation): Promise<void> | undefined {
    this.#checkPeerRange(operation.offset, operationLength(operation));
    if (this.#unfit !== undefined) {
      this.#operationsRefused += 1;
      return undefined;
    }
    const result = this.#buffer.stage(epoch, operation);
    this.#tellOverBound();
    if (result.kind === 'full') this.#setUnfit(`The epoch buffer is full: ${result.reason}`);
    if (result.kind !== 'spill' || operation.kind !== 'write') return undefined;
    return this.#spillData(result.position, Buffer.from(operation.data));
  }

  /** Ok only when everything of the epoch is here, spilled data included. */
  async closeEpoch(epoch: number, totals: EpochTotals): Promise<CloseResult> {
    if (this.#unfit !== undefined) return { ok: false, reason: this.#unfit };
    const result = this.#buffer.close(epoch, totals);
    await Promise.all(this.#spilling);
    return this.#unfit === undefined ? result : { ok: false, reason: this.#unfit };
  }

  /**
   * From now on the epoch's writes will be applied even if the primary dies. Needs `closeEpoch`.
   */
  commit(epoch: number): void {
    this.#assertFit();
    this.#buffer.commit(epoch);
  }

  /** Writes a committed epoch into the image and discards the overlay. The SVM is stopped. */
  async apply(epoch: number): Promise<void> {
    const range = await this.#exclusive(0, this.sizeBytes, () => this.#applyLocked(epoch));
    await this.#discardSpill(range);
  }

  /** Forgets what the primary did not commit: it is gone or starts anew. */
  async dropUncommitted(): Promise<void> {
    const ranges = this.#buffer.dropUncommitted();
    await Promise.all(this.#spilling);
    for (const range of ranges) await this.#discardSpill(range);
  }

  /**
   * Makes this the guest's only disk. Committed epochs that were not applied are applied first and
   * the overlay discarded (the SVM must be stopped then); else the overlay stays the guest's truth.
   * Uncommitted writes are dropped. Resolves when the guest may run on; the overlay is merged
   * behind it (`whenMerged`). Throws when unfit.
   */
  promote(): Promise<void> {
    this.#promotion ??= this.#promote();
    return this.#promotion;
  }

  /** Resolves when the image alone holds the promoted disk, durably. */
  whenMerged(): Promise<void> {
    return this.#merge;
  }

  /** Initial synchronisation, straight into the image, while there is no SVM yet. */
  async syncWrite(offset: number, data: Buffer): Promise<void> {
    await this.#sync(offset, data.length, () => this.#image.write(offset, data, false));
  }

  async syncZero(offset: number, length: number): Promise<void> {
    const options = { mayTrim: true, fua: false };
    await this.#sync(offset, length, () => this.#image.writeZeroes(offset, length, options));
  }

  /** The image below the overlay. */
  readImage(offset: number, length: number): Promise<Buffer> {
    return this.#image.read(offset, length);
  }

  /** SHA-256 of the image below the overlay, hexadecimal. Reads all of it. */
  digest(): Promise<string> {
    return digestLayer(this.#image);
  }

  #shared<T>(offset: number, length: number, work: () => Promise<T>): Promise<T> {
    return this.#lock.run({ ...blockRange(offset, length), exclusive: false }, work);
  }

  #exclusive<T>(offset: number, length: number, work: () => Promise<T>): Promise<T> {
    return this.#lock.run({ ...blockRange(offset, length), exclusive: true }, work);
  }

  /** A write of the SVM that fails leaves it with a disk that no guest ever had. */
  async #toOverlay(work: () => Promise<void>): Promise<void> {
    this.#assertFit();
    try {
      await work();
    } catch (error) {
      this.#setUnfit(`The overlay can not be written: ${describeError(error)}`);
      throw error;
    }
    this.#tellOverBound();
  }

  #spillData(position: number, data: Buffer): Promise<void> {
    const writing = this.#spill
      .write(position, data)
      .catch((error) => {
        this.#setUnfit(`The epoch buffer can not be spilled: ${describeError(error)}`);
      })
      .finally(() => this.#spilling.delete(writing));
    this.#spilling.add(writing);
    return writing;
  }

  async #applyLocked(epoch: number): Promise<SpillRange | undefined> {
    this.#assertFit();
    const operations = this.#buffer.operations(epoch);
    try {
      await applyOperations(this.#image, operations, this.#spill);
      await this.#overlay.discard();
    } catch (error) {
      this.#setUnfit(`Epoch ${epoch} could not be applied: ${describeError(error)}`);
      throw error;
    }
    this.#overBoundTold = false;
    return this.#buffer.release(epoch);
  }

  /** Positions of the spill file are used again only when nothing is in it or on its way. */
  async #discardSpill(range: SpillRange | undefined): Promise<void> {
    if (range === undefined) return;
    this.#discards += 1;
    await this.#spill.discard(range.from, range.to);
    this.#discards -= 1;
    if (this.#discards === 0 && this.#spilling.size === 0) this.#buffer.rewindSpill();
  }

  async #promote(): Promise<void> {
    await this.#exclusive(0, this.sizeBytes, async () => {
      this.#assertFit();
      for (const epoch of this.#buffer.committedEpochs) await this.#applyLocked(epoch);
      this.#buffer.dropUncommitted();
      this.#mode = 'promoting';
      this.#merge = this.#mergeOverlay();
    });
    // Whoever asks for `whenMerged` or `flush` gets the failure; here it is only logged.
    this.#merge.catch((error) => {
      this.#options.log.error('The overlay could not be merged', { reason: describeError(error) });
    });
  }

  async #mergeOverlay(): Promise<void> {
    for (const step of this.#overlay.mergeSteps()) {
      const end = step.offset + step.length;
      for (let offset = step.offset; offset < end; offset += COPY_CHUNK_BYTES) {
        const length = Math.min(COPY_CHUNK_BYTES, end - offset);
        await this.#exclusive(offset, length, () => this.#overlay.mergeRange(offset, length));
      }
    }
    await this.#image.flush();
    this.#mode = 'direct';
    await Promise.all(this.#spilling);
    await this.#spill.close();
    await this.#overlay.close();
  }

  async #sync(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    this.#checkPeerRange(offset, length);
    if (!this.#overlay.isEmpty) throw new ProtocolError('The SVM runs already: no synchronisation');
    try {
      await this.#exclusive(offset, length, work);
    } catch (error) {
      this.#setUnfit(`The image can not be synchronised: ${describeError(error)}`);
      throw error;
    }
  }

  #checkPeerRange(offset: number, length: number): void {
    if (this.#mode !== 'standby' || this.#promotion !== undefined) {
      throw new ProtocolError('This disk has been promoted and takes no more of its peer');
    }
    if (this.readOnly)
      throw new ProtocolError('This disk is read-only and takes nothing of its peer');
    if (offset + length > this.sizeBytes || length <= 0) {
      throw new ProtocolError(
        `A disk write of ${length} bytes at ${offset} is outside of ${this.sizeBytes} bytes`,
      );
    }
  }

  #assertFit(): void {
    if (this.#unfit !== undefined) throw new ColoError('COLO_E_UNFIT', this.#unfit);
  }

  #setUnfit(reason: string): void {
    if (this.#unfit !== undefined) return;
    this.#unfit = reason;
    this.#options.log.error('The secondary disk is unfit', { reason });
    this.#options.onUnfit?.(reason);
  }

  #tellOverBound(): void {
    if (this.#overBoundTold || !this.overBound) return;
    this.#overBoundTold = true;
    this.#options.onOverBound?.();
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
