/**
 * Which clusters changed since the last epoch that both hosts have: bits in a file that is mapped
 * into memory, so that they survive the death of the agent at any instruction.
 *
 *   offset  size  header field (u64, host order; hosts are little-endian)
 *   0       8     "COLOCHG1"
 *   8       8     version, 1
 *   16      8     size of the disk, bytes
 *   24      8     base epoch, or 2^64 - 1: the map has no base
 *   32      16    base generation, a UUID
 *   48      16    boot id of the system that last wrote here
 *   64      8     1: closed in order and durable
 *   4096          two bitmaps of one bit per cluster, each padded to 4096 bytes
 *
 * One bitmap has the running epoch, the other one the epoch before it while that is not known to be
 * committed; at an edge they change places, in memory only: a reader takes both together. So a
 * guest's write costs one store to memory, or none.
 *
 * The order of stores makes a crash in between leave too many bits, never too few: marked before
 * the write is submitted, the base moved before the bits under it are cleared, and no base while it
 * changes its generation. Stores are aligned and of 8 bytes at most, so none is ever seen in part.
 * Against a loss of power nothing is promised but the clean flag: then the boot id differs, and
 * the map is not trusted.
 */
import { assert } from '../../lib/index.js';
import type { ByteRange } from '../block-layer-shell.js';
import { bitRanges } from '../dirty-bitmap.js';
import { DIRTY_CLUSTER_BYTES } from '../limits.js';
import type { MapState } from './judge.js';

/** The file's bytes, as the two views that give aligned stores. */
export interface ChangeMapMemory {
  readonly header: BigUint64Array;
  /** The whole file, header included. */
  readonly words: Uint32Array;
}

/** What every write of a guest is told to before it is submitted. */
export interface WriteMarks {
  mark(offset: number, length: number): void;
}

const PAGE_BYTES = 4096;
const PAGE_WORDS = PAGE_BYTES / 4;
const MAGIC = Buffer.from('COLOCHG1').readBigUInt64LE();
const VERSION = 1n;
const NO_EPOCH = 2n ** 64n - 1n;
const FIELD = {
  magic: 0,
  version: 1,
  size: 2,
  epoch: 3,
  generation: 4,
  bootId: 6,
  clean: 8,
} as const;

/** Bytes of the file of a disk's map. */
export function changeMapBytes(diskSizeBytes: number): number {
  return PAGE_BYTES + 2 * bitmapPages(diskSizeBytes) * PAGE_BYTES;
}

/** One bitmap: where its words are, and which of its pages may have bits. */
interface Half {
  readonly at: number;
  readonly touched: Uint8Array;
}

export class ChangeMap implements WriteMarks {
  readonly #header: BigUint64Array;
  readonly #words: Uint32Array;
  readonly #sizeBytes: number;
  readonly #clusters: number;
  readonly #pages: number;
  #running: Half;
  #earlier: Half;
  /** The epoch at whose edge they changed places; undefined when its commit is not awaited. */
  #earlierEpoch: number | undefined;

  /**
   * Takes over what a file of the right size holds. Bits that can't be trusted are forgotten, with
   * their base: `state` says so. The caller makes the cleared clean flag durable before the first
   * mark.
   */
  constructor(memory: ChangeMapMemory, options: { sizeBytes: number; bootId: string }) {
    const { sizeBytes, bootId } = options;
    assert(memory.words.length * 4 === changeMapBytes(sizeBytes), 'A change map of another size');
    this.#header = memory.header;
    this.#words = memory.words;
    this.#sizeBytes = sizeBytes;
    this.#clusters = Math.ceil(sizeBytes / DIRTY_CLUSTER_BYTES);
    this.#pages = bitmapPages(sizeBytes);
    this.#running = { at: PAGE_WORDS, touched: new Uint8Array(this.#pages) };
    const second = PAGE_WORDS * (1 + this.#pages);
    this.#earlier = { at: second, touched: new Uint8Array(this.#pages) };
    const [high, low] = idWords(bootId);
    const header = this.#header;
    const ours = header[FIELD.magic] === MAGIC && header[FIELD.version] === VERSION;
    const sameDisk = header[FIELD.size] === BigInt(sizeBytes);
    const sameBoot = header[FIELD.bootId] === high && header[FIELD.bootId + 1] === low;
    const trusted = ours && sameDisk && (sameBoot || header[FIELD.clean] === 1n);
    // Without a base the bits are worth nothing, whatever happens to the rest of the header.
    if (!trusted) header[FIELD.epoch] = NO_EPOCH;
    header[FIELD.clean] = 0n;
    header[FIELD.magic] = MAGIC;
    header[FIELD.version] = VERSION;
    header[FIELD.size] = BigInt(sizeBytes);
    for (const half of [this.#running, this.#earlier]) {
      half.touched.fill(1);
      if (!trusted) this.#clear(half);
    }
    // Last: a crash above left the old boot id, so that half-cleared bits are not trusted.
    header[FIELD.bootId] = high;
    header[FIELD.bootId + 1] = low;
  }

  /** Trusted: the bits have every cluster that was changed since `base`. */
  get state(): MapState {
    const epoch = this.#header[FIELD.epoch] as bigint;
    if (epoch === NO_EPOCH) return { trusted: false };
    const words = [this.#header[FIELD.generation], this.#header[FIELD.generation + 1]];
    const generation = idText(words[0] as bigint, words[1] as bigint);
    return { trusted: true, base: { generation, epoch: Number(epoch) } };
  }

  /** The range is about to be written. No allocation, no system call. */
  mark(offset: number, length: number): void {
    if (length <= 0) return;
    const first = Math.floor(offset / DIRTY_CLUSTER_BYTES);
    const last = Math.min(
      Math.floor((offset + length - 1) / DIRTY_CLUSTER_BYTES),
      this.#clusters - 1,
    );
    const { at, touched } = this.#running;
    for (let cluster = first; cluster <= last; cluster++) {
      const word = cluster >>> 5;
      const bits = this.#words[at + word] as number;
      const mask = 1 << (cluster & 31);
      if ((bits & mask) !== 0) continue;
      touched[word >>> 10] = 1;
      this.#words[at + word] = bits | mask;
    }
  }

  /**
   * `epoch` ends here: the guest is paused and no write is in progress. Bits of an earlier edge
   * that was not committed count as written from now on: they are forgotten a commit later.
   */
  edge(epoch: number): void {
    const other = this.#earlier;
    this.#earlier = this.#running;
    this.#running = other;
    this.#earlierEpoch = epoch;
  }

  /**
   * The peer has committed `epoch` of `generation`: what changed up to its end is in common now.
   * Without an edge of that epoch, or with a later one, nothing is forgotten.
   */
  committed(generation: string, epoch: number): void {
    if (this.#earlierEpoch === undefined || this.#earlierEpoch > epoch) return;
    this.#setBase(generation, epoch);
    this.#clear(this.#earlier);
    this.#earlierEpoch = undefined;
  }

  /** The session is over: an edge that was not committed will not be. */
  sessionOver(): void {
    this.#earlierEpoch = undefined;
  }

  /** The image is exactly the end of this epoch, which the peer has, too: nothing has changed. */
  begin(generation: string, epoch: number): void {
    // Without a base the bits are not used, so they may go first.
    this.#header[FIELD.epoch] = NO_EPOCH;
    this.#clear(this.#running);
    this.#clear(this.#earlier);
    this.#earlierEpoch = undefined;
    this.#setBase(generation, epoch);
  }

  /** What changed can't be told any more, for instance because somebody else wrote the image. */
  distrust(): void {
    this.#header[FIELD.epoch] = NO_EPOCH;
  }

  /** Everything before it is durable, and nothing is marked afterwards. */
  markClean(): void {
    this.#header[FIELD.clean] = 1n;
  }

  /** Changed clusters of both bitmaps, ascending, neighbours joined; bytes. */
  *ranges(): Generator<ByteRange> {
    const [running, earlier] = [this.#running.at, this.#earlier.at];
    const union = (word: number) =>
      (this.#words[running + word] as number) | (this.#words[earlier + word] as number);
    yield* bitRanges(union, this.#sizeBytes);
  }

  #clear(half: Half): void {
    for (let page = 0; page < this.#pages; page++) {
      if (half.touched[page] === 0) continue;
      const start = half.at + page * PAGE_WORDS;
      for (let at = start; at < start + PAGE_WORDS; at++) {
        // A page that is only looked at needs not be written back.
        if (this.#words[at] !== 0) this.#words[at] = 0;
      }
    }
    half.touched.fill(0);
  }

  /** The epoch is one store; a new generation is two, so there is no base in between. */
  #setBase(generation: string, epoch: number): void {
    const header = this.#header;
    const [high, low] = idWords(generation);
    if (header[FIELD.generation] !== high || header[FIELD.generation + 1] !== low) {
      header[FIELD.epoch] = NO_EPOCH;
      header[FIELD.generation] = high;
      header[FIELD.generation + 1] = low;
    }
    header[FIELD.epoch] = BigInt(epoch);
  }
}

function bitmapPages(diskSizeBytes: number): number {
  return Math.ceil(diskSizeBytes / DIRTY_CLUSTER_BYTES / (PAGE_BYTES * 8));
}

function idWords(uuid: string): [bigint, bigint] {
  const digits = uuid.replaceAll('-', '');
  assert(/^[0-9a-f]{32}$/.test(digits), `${uuid} is no UUID`);
  return [BigInt(`0x${digits.slice(0, 16)}`), BigInt(`0x${digits.slice(16)}`)];
}

function idText(high: bigint, low: bigint): string {
  const digits = [high, low].map((word) => word.toString(16).padStart(16, '0')).join('');
  return [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
    digits.slice(20),
  ].join('-');
}
