/**
 * The primary's replication layer: passes everything on to the layer below and tells the
 * replication what changed.
 *
 *   untracked    nobody wants to know
 *   tracking     changed clusters are marked in the dirty bitmap (initial synchronisation)
 *   forwarding   every change is handed to `onWrite`, overlapping ones in the image's order
 *
 * In every mode the change map and a verification that runs are told of a change before it is
 * submitted: they must never know less than the image.
 *
 * A write that began before `forwarding` and ends after it is marked, not forwarded: whoever
 * switches at a pause of the guest, when nothing is in progress, finds no bit set afterwards.
 */
import {
  type BlockLayer,
  type ByteRange,
  type CachedFile,
  type RangeQuery,
  readInto,
  type ZeroOptions,
} from './block-layer-shell.js';
import { DirtyBitmap } from './dirty-bitmap.js';
import { type DiskOperation, operationLength } from './disk-operation.js';
import type { WriteMarks } from './generation/change-map.js';
import type { LentData } from './nbd-references.js';

export type ReplicationMode = 'untracked' | 'tracking' | 'forwarding';

export interface ReplicatedDiskOptions {
  readonly base: BlockLayer;
  /**
   * Called as the write is submitted to the image; `data` may be kept and never changes. A returned
   * promise delays the guest's answer until it resolves: back-pressure while the link is slow. It
   * must depend on the link only, never on a checkpoint: a pause waits for the guest's answers.
   */
  onWrite(operation: DiskOperation): Promise<void> | undefined;
  /** True while data given to `onWrite`, in whatever mode, may still be in use. Default: it may. */
  isSending?(): boolean;
  /** Told of every change before it is submitted: what outlives this agent. */
  readonly changes?: WriteMarks;
}

export interface ReplicatedDiskStats {
  readonly mode: ReplicationMode;
  readonly dirtyBytes: number;
  readonly operationsForwarded: number;
  readonly bytesForwarded: number;
  readonly writesInFlight: number;
}

export class ReplicatedDisk implements BlockLayer {
  readonly #base: BlockLayer;
  readonly #onWrite: ReplicatedDiskOptions['onWrite'];
  readonly #isSending: () => boolean;
  readonly #changes: WriteMarks | undefined;
  #watch: WriteMarks | undefined;
  #mode: ReplicationMode = 'untracked';
  #bitmap: DirtyBitmap | undefined;
  #operationsForwarded = 0;
  #bytesForwarded = 0;
  #writesInFlight = 0;
  #pausing = false;
  #flushOwed = false;

  constructor(options: ReplicatedDiskOptions) {
    this.#base = options.base;
    this.#onWrite = (operation) => options.onWrite(operation);
    this.#isSending = () => options.isSending?.() ?? true;
    this.#changes = options.changes;
  }

  get sizeBytes(): number {
    return this.#base.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#base.readOnly;
  }

  get keepsData(): boolean {
    return this.#isSending() || this.#base.keepsData !== false;
  }

  get mode(): ReplicationMode {
    return this.#mode;
  }

  /** Bytes still to be sent (an upper bound); 0 when nothing was ever marked. */
  get dirtyBytes(): number {
    return this.#bitmap?.dirtyBytes ?? 0;
  }

  get stats(): ReplicatedDiskStats {
    return {
      mode: this.#mode,
      dirtyBytes: this.dirtyBytes,
      operationsForwarded: this.#operationsForwarded,
      bytesForwarded: this.#bytesForwarded,
      writesInFlight: this.#writesInFlight,
    };
  }

  /** `untracked` forgets the bitmap; the others keep it. */
  setMode(mode: ReplicationMode): void {
    this.#mode = mode;
    if (mode === 'untracked') this.#bitmap = undefined;
    else this.#bitmap ??= new DirtyBitmap(this.sizeBytes);
  }

  /**
   * Marks what a target must be sent. A target that reads as zeroes everywhere (a new image) needs
   * no holes. Set a tracking mode first: a write during the search for holes must be marked too.
   */
  markAllDirty(options: { targetIsZeroes: boolean }): void {
    const everything = [{ offset: 0, length: this.sizeBytes }];
    const ranges = options.targetIsZeroes ? (this.#base.dataRanges?.() ?? everything) : everything;
    for (const range of ranges) this.markDirty(range);
  }

  /** Has no effect in `untracked`. */
  markDirty(range: ByteRange): void {
    this.#bitmap?.mark(range.offset, range.length);
  }

  isDirty(cluster: number): boolean {
    return this.#bitmap?.isDirty(cluster) ?? false;
  }

  /** One more that is told of every change before it is submitted; undefined: nobody. */
  watchWrites(watch: WriteMarks | undefined): void {
    this.#watch = watch;
  }

  /** Ranges to read and send now; their bits are clear, a racing write sets them again. */
  takeDirty(maxClusters: number): ByteRange[] {
    return this.#bitmap?.take(maxClusters) ?? [];
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#base.read(offset, length);
  }

  readInto(offset: number, target: Buffer): Promise<void> {
    return readInto(this.#base, offset, target);
  }

  cachedFile(offset: number, length: number): CachedFile | undefined {
    return this.#base.cachedFile?.(offset, length);
  }

  write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    if (this.#mode === 'untracked') {
      this.#tell(offset, data.length);
      return this.#base.write(offset, data, fua);
    }
    return this.#change({ kind: 'write', offset, data }, () => this.#base.write(offset, data, fua));
  }

  /** In the other modes somebody else sees the data, too, and must see the same. */
  writeLent(offset: number, data: LentData): boolean {
    if (this.#mode !== 'untracked' || this.#base.writeLent === undefined) return false;
    this.#tell(offset, data.length);
    return this.#base.writeLent(offset, data);
  }

  writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void> {
    const zero: DiskOperation = { kind: options.mayTrim ? 'trim' : 'zero', offset, length };
    return this.#change(zero, () => this.#base.writeZeroes(offset, length, options));
  }

  trim(offset: number, length: number): Promise<void> {
    const trim: DiskOperation = { kind: 'trim', offset, length };
    return this.#change(trim, () => this.#base.trim(offset, length));
  }

  flush(): Promise<void> {
    if (!this.#pausing) return this.#base.flush();
    this.#flushOwed = true;
    return Promise.resolve();
  }

  /**
   * A pause of the guest begins: QEMU flushes at `stop` and at the save of device state, and the
   * guest would stand still for the image's disk. Until `endPause` a flush is answered at once and
   * owed. The guest may hear of it, but nobody outside may before it is done.
   */
  beginPause(): void {
    this.#pausing = true;
  }

  /** Does what is owed; what the guest said since must not leave before this resolves. */
  async endPause(): Promise<void> {
    this.#pausing = false;
    if (!this.#flushOwed) return;
    this.#flushOwed = false;
    await this.#base.flush();
  }

  close(): Promise<void> {
    return this.#base.close();
  }

  dataRanges(query: RangeQuery = { offset: 0, length: this.sizeBytes }): ByteRange[] {
    const { offset, length } = query;
    return this.#base.dataRanges?.(query) ?? [{ offset, length }];
  }

  async #change(operation: DiskOperation, work: () => Promise<void>): Promise<void> {
    const length = operationLength(operation);
    this.#tell(operation.offset, length);
    const forwarding = this.#mode === 'forwarding';
    this.#writesInFlight += 1;
    try {
      if (forwarding) {
        this.#operationsForwarded += 1;
        this.#bytesForwarded += length;
        const room = this.#onWrite(operation);
        await Promise.all([work(), room]);
      } else {
        await work();
      }
    } finally {
      this.#writesInFlight -= 1;
      // Marked when it is done, failed or not: only now a reader is sure to see all of it.
      if (!forwarding || this.#mode === 'tracking')
        this.markDirty({ offset: operation.offset, length });
    }
  }

  #tell(offset: number, length: number): void {
    this.#changes?.mark(offset, length);
    this.#watch?.mark(offset, length);
  }
}
