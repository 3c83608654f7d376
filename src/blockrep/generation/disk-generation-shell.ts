/**
 * The generation record and the change map of one open image, kept in step.
 *
 * Primary: `open`, `beginAlone` before the guest may write, `changes` under its writes; in a
 * session `beginPeering` first, then `edge` in each pause and `committed`; `beginAlone` again when the secondary is lost.
 * Secondary: `open`, `claim` in the answer to the hello; accepted: `ownChanges` to the source, and
 * `beginSync` before the peer's first byte is written; `standbyAt` with the first epoch that was
 * applied, `applied` with each one after it, also with what a journal replays at a start; at a
 * promotion `beginAlone`, when nothing committed is left to apply, and then the overlay's ranges
 * are marked as it is merged.
 * Both: `close` after the image was flushed and closed.
 *
 * The caller holds the image's lock all the time. The calls that write the file take their turns.
 */
import { randomUUID } from 'node:crypto';
import { assert, type Logger } from '../../lib/index.js';
import type { ByteRange } from '../block-layer-shell.js';
import { CHANGE_MAP_DISK_BYTES_MAX } from '../limits.js';
import type { WriteMarks } from './change-map.js';
import { ChangeMapFile } from './change-map-shell.js';
import { assertStartable, type ImageClaim, type MapState, type PrimaryImage } from './judge.js';
import {
  appliedAt,
  beginAlone,
  beginFirst,
  beginSync,
  closed,
  committedAt,
  type GenerationRecord,
  imageChange,
  type Lineage,
  lineageOf,
  opened,
  peered,
  type RecordOrigin,
  standbyAt,
} from './record.js';
import {
  changeMapPath,
  generationPath,
  identifyImage,
  readBootId,
  readRecord,
  writeRecord,
} from './record-file-shell.js';

export interface DiskGenerationOptions {
  readonly stateDir: string;
  readonly vm: string;
  readonly disk: string;
  /** This host's name, for messages. */
  readonly host: string;
  /** Open and locked. */
  readonly image: { readonly path: string; readonly sizeBytes: number; dataRanges(): ByteRange[] };
  readonly log: Logger;
  /** Other hosts write to it, too: that it was changed says nothing. */
  readonly shared?: boolean;
  /** Default: this host's. */
  readonly bootId?: string;
}

/** Whose data the image has: what `colo status` shows. */
export type GenerationSummary = Pick<GenerationRecord, 'generation' | 'epoch' | 'state'>;

interface Found {
  readonly origin: RecordOrigin;
  readonly record: GenerationRecord | undefined;
  readonly change: 'replaced' | 'written' | undefined;
  readonly blank: boolean;
  readonly map: MapState;
}

const NO_MARKS: WriteMarks = { mark: () => undefined };

export class DiskGeneration {
  readonly recordPath: string;
  readonly #options: DiskGenerationOptions;
  readonly #file: ChangeMapFile | undefined;
  /** As it was before this agent did anything. */
  readonly #found: Found;
  #record: GenerationRecord | undefined;
  /** The epoch of the record is the last one, without a gap. */
  #exact: boolean;
  #writing: Promise<void> = Promise.resolve();
  #closed = false;

  private constructor(
    options: DiskGenerationOptions,
    found: Found,
    file: ChangeMapFile | undefined,
  ) {
    this.#options = options;
    this.#found = found;
    this.#file = file;
    this.recordPath = generationPath(options.stateDir, options.vm, options.disk);
    const fits = found.change === undefined;
    this.#record = fits && found.record ? opened(found.record, found.origin) : undefined;
    this.#exact = found.record?.clean === true;
    this.#learnFromMap();
  }

  /** Throws OperatorError for a damaged file. An image that was changed outside is not refused. */
  static async open(options: DiskGenerationOptions): Promise<DiskGeneration> {
    const { stateDir, vm, disk, image } = options;
    const { sizeBytes } = image;
    const bootId = options.bootId ?? (await readBootId());
    const identity = await identifyImage(image.path);
    const record = await readRecord(generationPath(stateDir, vm, disk), { vm, disk, sizeBytes });
    const file =
      sizeBytes <= CHANGE_MAP_DISK_BYTES_MAX
        ? await ChangeMapFile.open(changeMapPath(stateDir, vm, disk), { sizeBytes, bootId })
        : undefined;
    const origin = { vm, disk, sizeBytes, image: identity, bootId };
    const change = options.shared === true ? undefined : record && imageChange(record, origin);
    // Bits without the record that they belong to, or of another image, say nothing.
    if (record === undefined || change !== undefined) file?.map.distrust();
    const map = file?.map.state ?? { trusted: false };
    const blank = image.dataRanges().length === 0;
    const found = { origin, record, change, blank, map };
    const generation = new DiskGeneration(options, found, file);
    // An outside change is only remembered by the old record: it stays until somebody decides.
    if (generation.#record !== undefined) await generation.#save(generation.#record);
    return generation;
  }

  /** What a guest's writes go through before they are submitted. */
  get changes(): WriteMarks {
    return this.#file?.map ?? NO_MARKS;
  }

  /** What a secondary tells its primary. */
  get claim(): ImageClaim {
    const record = this.#record ?? this.#found.record;
    const { change, blank } = this.#found;
    const gone = this.#record === undefined && change === 'replaced';
    if (record === undefined || (gone && blank)) return { kind: blank ? 'blank' : 'unknown' };
    return {
      kind: 'record',
      lineage: lineageOf(record),
      state: record.state,
      changedOutside: this.#record === undefined ? (change ?? 'no') : 'no',
      map: this.#mapState(),
    };
  }

  /** What a primary tells its secondary. */
  get primary(): PrimaryImage {
    const { vm, disk } = this.#options;
    return { record: { vm, disk, ...lineageOf(this.#current()) }, map: this.#mapState() };
  }

  /** For the operator; undefined: the image has no record that fits. */
  get summary(): GenerationSummary | undefined {
    const record = this.#record;
    if (record === undefined) return undefined;
    const { generation, epoch, state } = record;
    return { generation, epoch, state };
  }

  /** Throws OperatorError if `beginAlone` will, because of what the record says. */
  assertStartable(): void {
    if (this.#record !== undefined) assertStartable(this.#record, this.recordPath);
  }

  /**
   * A guest starts to write without a peer; durable when it resolves, which must be before the
   * guest's first write at a start, and before any output leaves otherwise. Throws OperatorError
   * if the image has no state that a guest could start from.
   */
  async beginAlone(): Promise<void> {
    const { host, log, disk } = this.#options;
    const at = new Date().toISOString();
    const next = { generation: randomUUID(), host, at };
    const { origin, record: former, change } = this.#found;
    const record = this.#record;
    if (record === undefined) {
      if (former !== undefined) {
        log.warn('The image was changed outside of Colo: its history ends here', { disk, change });
      }
      await this.#save(beginFirst(origin, next));
    } else {
      assertStartable(record, this.recordPath);
      const map = this.#file?.map;
      if (record.state === 'active') map?.sessionOver();
      else if (this.#exact) map?.begin(record.generation, record.epoch);
      else map?.distrust();
      await this.#save(beginAlone(record, { ...next, exact: this.#exact }));
    }
    this.#exact = true;
  }

  /**
   * A session begins. Durable before the peer can commit an epoch: from then on it may go on with
   * the guest, and this host must not start from its image unasked.
   */
  async beginPeering(): Promise<void> {
    const record = this.#current();
    // After a session that was lost in this generation the next first commit may have any number.
    if (record.epoch > 0) this.#exact = false;
    await this.#save(peered(record));
  }

  /** The running epoch ends; the guest is paused and no write is in progress. */
  edge(epoch: number): void {
    this.#file?.map.edge(epoch);
  }

  /** The secondary has committed the epoch. In memory, and in the map's file at once. */
  committed(epoch: number): void {
    const record = committedAt(this.#current(), epoch);
    this.#record = record;
    this.#exact = true;
    this.#file?.map.committed(record.generation, epoch);
  }

  /** Clusters that this host changed since the map's base: candidates of a source. */
  changedRanges(): Iterable<ByteRange> {
    return this.#file?.map.ranges() ?? [];
  }

  /** What a target tells its source of its own changes; to be asked before `beginSync`. */
  ownChanges(): { readonly trusted: boolean; readonly ranges: Iterable<ByteRange> } {
    const state = this.#record?.state;
    // An image that stood by is what its epoch made it.
    if (state === 'standby') return { trusted: true, ranges: [] };
    if (state !== 'active' || !this.#mapState().trusted) return { trusted: false, ranges: [] };
    return { trusted: true, ranges: this.changedRanges() };
  }

  /** The peer's first byte is about to be written; resolves when that is durable. */
  async beginSync(peer: Lineage): Promise<void> {
    const fresh = () => standbyAt(beginFirst(this.#found.origin, this.#freshLine(peer)), peer, 0);
    await this.#save(beginSync(this.#record ?? fresh()));
  }

  /** All of the image is the end of `epoch`, durably. Resolves when the record says so, too. */
  async standbyAt(peer: Lineage, epoch: number): Promise<void> {
    this.#exact = true;
    await this.#save(standbyAt(this.#current(), peer, epoch));
  }

  /**
   * A later epoch was applied, or found in the journal after a crash. Not written at once: a record
   * that is behind its image only makes the next resynchronisation compare more.
   */
  applied(epoch: number): void {
    this.#record = appliedAt(this.#current(), epoch);
    this.#exact = true;
  }

  /** The image must be flushed and closed, or nobody may have written to it. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writing.catch(() => undefined);
    await this.#file?.close();
    // An epoch that may not be the last one does not become that by an orderly end.
    if (this.#record === undefined || !this.#exact) return;
    const image = await identifyImage(this.#options.image.path);
    await this.#save(closed(this.#record, image));
  }

  #current(): GenerationRecord {
    const record = this.#record;
    assert(record !== undefined, `The image of disk ${this.#options.disk} has no generation yet`);
    return record;
  }

  #mapState(): MapState {
    return this.#file?.map.state ?? { trusted: false };
  }

  /** The map was there at every commit; the record on disk is as old as its last write. */
  #learnFromMap(): void {
    const { trusted, base } = this.#found.map;
    const record = this.#record;
    if (!trusted || record?.state !== 'active') return;
    this.#exact = true;
    if (base?.generation === record.generation) this.#record = committedAt(record, base.epoch);
  }

  #freshLine(peer: Lineage) {
    return { generation: peer.generation, host: peer.host, at: peer.since };
  }

  #save(record: GenerationRecord): Promise<void> {
    this.#record = record;
    const writing = this.#writing
      .catch(() => undefined)
      .then(() => writeRecord(this.recordPath, record));
    this.#writing = writing;
    return writing;
  }
}
