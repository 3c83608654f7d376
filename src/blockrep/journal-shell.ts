/**
 * A guest's journal on the secondary: writes ahead what the images are to hold, of all disks.
 *
 *   append (staged, not synced) -> endEpoch (one sync) -> commit -> apply -> applied
 *
 * One pump writes everything, in order: consecutive records with one system call; an epoch is begun
 * only when the one before it is durable. Two segments: when the active one is half full, the next
 * epoch begins in the other. Once all epochs of the old one are in the images, these are synced
 * behind everybody's back and the old one is free. If it is not free yet because of that sync, the
 * next epoch waits for it; if because its epochs are not applied, the active segment grows, which
 * the epoch buffer's bounds limit. An epoch never crosses from one segment to the other.
 *
 * Order of the crash-proof steps: the images are synced before a header forgets epochs; of two
 * segments the older is emptied first (the newer one's epochs may be replayed alone, the older
 * one's may not); a dropped epoch that is complete on disk is marked so, durably, before anything
 * else happens.
 */
import { describeError, type Logger } from '../lib/index.js';
import type { EpochTotals } from './disk-operation.js';
import type { BufferedOperation } from './epoch-buffer.js';
import {
  alignToBlock,
  encodeHeader,
  encodeMark,
  encodeRecord,
  encodeTotals,
  type JournalIdentity,
  type RecordHead,
} from './journal-format.js';
import {
  JOURNAL_BATCH_BYTES,
  JOURNAL_BATCH_RECORDS,
  JOURNAL_BLOCK_BYTES,
  JOURNAL_QUEUE_BYTES,
} from './limits.js';
import type { StorageFile } from './storage-shell.js';

export interface JournalOptions {
  readonly files: readonly [StorageFile, StorageFile];
  readonly identity: JournalIdentity;
  readonly nonce: Buffer;
  /** The highest sequence in the files so far. */
  readonly sequence: number;
  /** Which file is to be emptied first. */
  readonly older: 0 | 1;
  readonly segmentBytes: number;
  readonly log: Logger;
  /** Makes everything that was applied durable in the images. */
  syncImages(): Promise<void>;
  /** The journal can not be written any more. Once. */
  onFailure(reason: string): void;
}

interface Segment {
  readonly index: number;
  readonly file: StorageFile;
  sequence: number;
  /** Where the next record goes. */
  end: number;
  /** Nothing in it counts. */
  free: boolean;
}

/** An epoch in a segment that is not applied yet. */
interface Extent {
  readonly epoch: number;
  readonly segment: Segment;
  readonly start: number;
  readonly chainBefore: number;
  /** Its end record is on its way or written. */
  ended: boolean;
}

interface RecordItem {
  readonly kind: 'record';
  readonly epoch: number;
  readonly disk: number;
  readonly operation: BufferedOperation;
  readonly data: Buffer | undefined;
}

interface EndItem {
  readonly kind: 'end';
  readonly epoch: number;
  readonly totals: readonly EpochTotals[];
}

type Item = RecordItem | EndItem | { readonly kind: 'task'; readonly work: () => Promise<void> };

interface Queued {
  readonly item: Item;
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

const PADDING = Buffer.alloc(JOURNAL_BLOCK_BYTES);

export class Journal {
  readonly #options: JournalOptions;
  readonly #segments: readonly [Segment, Segment];
  #active: Segment;
  #queue: Queued[] = [];
  #queuedBytes = 0;
  #pumping = false;
  #roomWaiters: (() => void)[] = [];
  #extents: Extent[] = [];
  #current: Extent | undefined;
  #chain = 0;
  #run = 0;
  #dropOwed = false;
  #base: number | undefined;
  #applied: number | undefined;
  #checkpoint: Promise<void> | undefined;
  #failed: unknown;

  constructor(options: JournalOptions) {
    this.#options = options;
    const [first, second] = options.files;
    const newest = options.older === 0 ? 1 : 0;
    const segment = (file: StorageFile, index: 0 | 1): Segment => {
      const sequence = options.sequence - (index === newest ? 0 : 1);
      return { index, file, sequence, end: JOURNAL_BLOCK_BYTES, free: false };
    };
    this.#segments = [segment(first, 0), segment(second, 1)];
    this.#active = this.#segments[options.older];
  }

  /** After a crash now the journal would say at which epoch the images are. */
  get tellsEpoch(): boolean {
    if (this.#base !== undefined || this.#applied !== undefined) return true;
    return this.#extents.some(({ ended }) => ended);
  }

  /** Bytes of the file that is written now, for tests and figures. */
  get activeBytes(): number {
    return this.#active.end;
  }

  /**
   * Appends one operation, in the order of the calls; `data` must not change afterwards. Resolves
   * when it is written, not synced; `operation.location` says where, then. Never rejects.
   */
  append(item: Omit<RecordItem, 'kind'>): Promise<void> {
    const bytes = item.data?.length ?? 0;
    return this.#enqueue({ kind: 'record', ...item }, bytes).catch(() => undefined);
  }

  /** Too much waits to be written: append no more until it resolves. */
  room(): Promise<void> | undefined {
    if (this.#queuedBytes < JOURNAL_QUEUE_BYTES) return undefined;
    return new Promise((resolve) => this.#roomWaiters.push(resolve));
  }

  /** Resolves when the whole epoch is durable. One entry of `totals` for each disk. */
  endEpoch(epoch: number, totals: readonly EpochTotals[]): Promise<void> {
    return this.#enqueue({ kind: 'end', epoch, totals }, 0);
  }

  /** The data of a record. */
  async read(operation: BufferedOperation): Promise<Buffer> {
    const { location, length } = operation;
    const segment = location === undefined ? undefined : this.#segments[location.segment];
    if (location === undefined || segment === undefined) {
      throw new Error('The operation is not in the journal');
    }
    return segment.file.read(location.position, length);
  }

  /** The epoch is in the images, which need not be synced. */
  applied(epoch: number): void {
    this.#applied = epoch;
    this.#extents = this.#extents.filter((extent) => extent.epoch > epoch);
    this.#startCheckpoint();
  }

  /** Epochs from `epoch` on are never replayed once this has resolved. */
  drop(epoch: number): Promise<void> {
    return this.#enqueue({ kind: 'task', work: () => this.#drop(epoch) }, 0);
  }

  /**
   * Syncs the images and empties the journal; nothing of it is replayed from then on. Everything
   * committed must be applied. `base`: what a later opening is told of the images.
   */
  reset(base: number | undefined, options: { clean: boolean }): Promise<void> {
    return this.#enqueue({ kind: 'task', work: () => this.#reset(base, options.clean) }, 0);
  }

  /** What was appended before is written, as far as it can be. */
  async settled(): Promise<void> {
    await this.#enqueue({ kind: 'task', work: async () => undefined }, 0).catch(() => undefined);
    await this.#checkpoint;
  }

  async close(): Promise<void> {
    await this.settled();
    this.#failed ??= new Error('The journal is closed');
    for (const { file } of this.#segments) await file.close();
  }

  #enqueue(item: Item, bytes: number): Promise<void> {
    if (this.#failed !== undefined) return Promise.reject(this.#failed);
    return new Promise((resolve, reject) => {
      this.#queue.push({ item, bytes, resolve, reject });
      this.#queuedBytes += bytes;
      if (this.#pumping) return;
      this.#pumping = true;
      // Not at once: what is appended in this turn goes out together.
      setImmediate(() => void this.#pump());
    });
  }

  async #pump(): Promise<void> {
    while (this.#queue.length > 0) {
      const work = this.#takeWork();
      try {
        await this.#perform(work);
        for (const each of work) each.resolve();
      } catch (error) {
        this.#fail(error);
        for (const each of [...work, ...this.#queue.splice(0)]) each.reject(error);
        this.#queuedBytes = 0;
      }
      for (const { bytes } of work) this.#queuedBytes = Math.max(0, this.#queuedBytes - bytes);
      if (this.#queuedBytes <= JOURNAL_QUEUE_BYTES / 2) {
        for (const wake of this.#roomWaiters.splice(0)) wake();
      }
    }
    this.#pumping = false;
  }

  /** A task alone, or records of one epoch, the last of them possibly its end. */
  #takeWork(): Queued[] {
    const queue = this.#queue;
    const first = queue[0]?.item;
    let count = 1;
    if (first?.kind === 'record') {
      let bytes = 0;
      for (const { item, bytes: more } of queue.slice(1, JOURNAL_BATCH_RECORDS)) {
        bytes += more;
        if (item.kind === 'task' || item.epoch !== first.epoch) break;
        if (bytes > JOURNAL_BATCH_BYTES) break;
        count += 1;
        if (item.kind === 'end') break;
      }
    }
    return queue.splice(0, count);
  }

  async #perform(work: readonly Queued[]): Promise<void> {
    const [first] = work;
    if (first === undefined) return;
    if (first.item.kind === 'task') {
      await first.item.work();
      return;
    }
    const parts: Buffer[] = [];
    if (this.#current?.epoch !== first.item.epoch) parts.push(await this.#begin(first.item.epoch));
    const segment = this.#active;
    let position = segment.end + (parts[0]?.length ?? 0);
    let ended = false;
    for (const { item } of work) {
      if (item.kind === 'task') continue;
      const at = this.#encode(item, parts, position);
      if (item.kind === 'record' && item.data !== undefined) {
        item.operation.location = { segment: segment.index, position: at.dataPosition };
      }
      position = at.end;
      ended ||= item.kind === 'end';
    }
    if (ended) {
      parts.push(PADDING.subarray(0, alignToBlock(position) - position));
      position = alignToBlock(position);
      if (this.#current !== undefined) this.#current.ended = true;
    }
    await segment.file.writeMany(segment.end, parts);
    segment.end = position;
    if (!ended) return;
    await segment.file.flush();
    this.#current = undefined;
  }

  #encode(
    item: RecordItem | EndItem,
    parts: Buffer[],
    position: number,
  ): { dataPosition: number; end: number } {
    const data = item.kind === 'end' ? encodeTotals(item.totals) : item.data;
    const { head, crc } = encodeRecord(this.#chain, fieldsOf(item), data);
    this.#chain = crc;
    parts.push(head);
    const dataPosition = position + head.length;
    if (data === undefined) return { dataPosition, end: dataPosition };
    parts.push(data);
    return { dataPosition, end: dataPosition + data.length };
  }

  /** Chooses the epoch's segment; returns its mark, which has no place in the file yet. */
  async #begin(epoch: number): Promise<Buffer> {
    await this.#changeSegment();
    if (this.#dropOwed) await this.#writeDrop(epoch);
    const segment = this.#active;
    const extent = { epoch, segment, start: segment.end, chainBefore: this.#chain, ended: false };
    this.#extents.push(extent);
    this.#current = extent;
    return this.#mark('begin', epoch);
  }

  async #changeSegment(): Promise<void> {
    // A segment is never left empty: the other's first mark continues what is in it.
    const half = Math.max(this.#options.segmentBytes / 2, JOURNAL_BLOCK_BYTES + 1);
    if (this.#active.end < half) return;
    this.#startCheckpoint();
    await this.#checkpoint;
    if (this.#failed !== undefined) throw this.#failed;
    const other = this.#other();
    if (!other.free) return;
    other.free = false;
    this.#active = other;
    // What was dropped in the old one was never complete, and nothing is written behind it.
    this.#dropOwed = false;
    this.#startCheckpoint();
  }

  #mark(kind: 'begin' | 'drop', epoch: number): Buffer {
    const { sequence, end } = this.#active;
    const place = { nonce: this.#options.nonce, sequence, position: end };
    const mark = encodeMark(place, { kind, run: this.#run, epoch, previous: this.#chain });
    this.#chain = mark.readUInt32BE(mark.length - 4);
    return mark;
  }

  /** Goes back to before the oldest dropped epoch. */
  async #drop(epoch: number): Promise<void> {
    const dropped = this.#extents.filter((extent) => extent.epoch >= epoch);
    const [oldest] = dropped;
    if (oldest === undefined) return;
    this.#extents = this.#extents.filter((extent) => extent.epoch < epoch);
    this.#current = undefined;
    if (this.#active !== oldest.segment) {
      this.#active.free = true;
      this.#active.end = JOURNAL_BLOCK_BYTES;
      this.#active = oldest.segment;
    }
    this.#active.end = oldest.start;
    this.#chain = oldest.chainBefore;
    this.#run += 1;
    this.#dropOwed = true;
    // An epoch without its end is never replayed: its mark may stay until something follows it.
    if (dropped.some((extent) => extent.ended)) await this.#writeDrop(epoch);
  }

  async #writeDrop(epoch: number): Promise<void> {
    const segment = this.#active;
    const mark = this.#mark('drop', epoch);
    const padding = PADDING.subarray(0, JOURNAL_BLOCK_BYTES - mark.length);
    await segment.file.writeMany(segment.end, [mark, padding]);
    await segment.file.flush();
    segment.end += JOURNAL_BLOCK_BYTES;
    this.#dropOwed = false;
  }

  #other(): Segment {
    return this.#segments[this.#active.index === 0 ? 1 : 0];
  }

  /** Frees the old segment if its epochs are all in the images. */
  #startCheckpoint(): void {
    const old = this.#other();
    const needed = old.free || this.#extents.some((extent) => extent.segment === old);
    if (needed || this.#checkpoint !== undefined || this.#failed !== undefined) return;
    this.#checkpoint = this.#freeSegment(old)
      .catch((error) => this.#fail(error))
      .finally(() => {
        this.#checkpoint = undefined;
      });
  }

  async #freeSegment(segment: Segment): Promise<void> {
    const base = this.#applied ?? this.#base;
    await this.#options.syncImages();
    await this.#writeHeader(segment, { sequence: this.#active.sequence + 1, base, clean: false });
  }

  async #reset(base: number | undefined, clean: boolean): Promise<void> {
    await this.#checkpoint;
    if (this.#failed !== undefined) throw this.#failed;
    await this.#options.syncImages();
    const [a, b] = this.#segments;
    const order = a.sequence < b.sequence ? [a, b] : [b, a];
    let sequence = Math.max(a.sequence, b.sequence);
    for (const segment of order) {
      sequence += 1;
      await this.#writeHeader(segment, { sequence, base, clean });
    }
    this.#active = order[0] ?? a;
    this.#active.free = false;
    this.#extents = [];
    this.#current = undefined;
    this.#chain = 0;
    this.#run = 0;
    this.#dropOwed = false;
    this.#base = base;
    this.#applied = undefined;
  }

  async #writeHeader(
    segment: Segment,
    fields: { sequence: number; base: number | undefined; clean: boolean },
  ): Promise<void> {
    const { identity, nonce, segmentBytes } = this.#options;
    const { sequence, base: baseEpoch, clean } = fields;
    const sizeBytes = Math.min(segment.file.sizeBytes, segmentBytes);
    const block = encodeHeader({ nonce, sequence, baseEpoch, clean, sizeBytes }, identity);
    await segment.file.writeMany(0, [block]);
    await segment.file.flush();
    const excess = segment.end - segmentBytes;
    if (excess > 0) {
      const options = { mayTrim: true, fua: false };
      await segment.file.writeZeroes(segmentBytes, excess, options);
    }
    segment.sequence = sequence;
    segment.end = JOURNAL_BLOCK_BYTES;
    segment.free = true;
  }

  #fail(error: unknown): void {
    if (this.#failed !== undefined) return;
    this.#failed = error;
    this.#options.onFailure(`The journal can not be kept: ${describeError(error)}`);
  }
}

function fieldsOf(item: RecordItem | EndItem): Omit<RecordHead, 'crc'> {
  const { epoch } = item;
  if (item.kind === 'end') {
    const disk = item.totals.length;
    return { kind: 'end', disk, epoch, offset: 0, length: disk * 16 };
  }
  const { kind, offset, length } = item.operation;
  return { kind, disk: item.disk, epoch, offset, length };
}
