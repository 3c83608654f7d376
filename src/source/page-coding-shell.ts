/**
 * The bytes of each batch of pages: RAM -> encoder (zero pages, deltas) -> compression where it is
 * measured to pay -> the channel.
 *
 * What the link does is seen by what the destination confirms: a rate counts from one confirmation
 * to the next while more was under way all the time. Then the link, or who writes the pages behind
 * it, was what there was to wait for. If that is who writes them, compression helps nobody: so what
 * crosses with it is compared with what crossed without it, and it rests while it brings nothing.
 */
import type { GuestRam } from '../emulator/index.js';
import { assert, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  type CheckedBatch,
  CompressionAdvisor,
  codeBatch,
  encodeChecked,
  type PageBatch,
  PageEncoder,
} from '../migration/index.js';
import {
  COMPRESSION_REST_US,
  PLAIN_EVERY,
  RATE_SAMPLES_MIN,
  SAMPLE_KEPT,
  SENT_CACHE_BYTES,
} from './limits.js';

export interface PageCodingOptions {
  readonly ram: Pick<GuestRam, 'sizeBytes' | 'copyOut'>;
  readonly compress: 'auto' | 'off';
  /** Bytes in a second; null: no limit. */
  readonly bytesPerSecondMax: number | null;
  /** For tests. */
  readonly nowUs?: () => number;
}

/** Pages as they are put on a link. */
export interface CodedBatch {
  /** What they were coded from. */
  readonly batch: PageBatch;
  readonly checked: CheckedBatch;
  /** Of all parts. */
  readonly bytes: number;
}

interface Batch {
  readonly sequence: number;
  /** As sent, and as it was. */
  readonly bytes: number;
  readonly rawBytes: number;
}

const JUDGED_BYTES_MIN = 64 * 1024;
const SECOND_US = 1_000_000;
const EMPTY_BATCH: PageBatch = { runs: [], pages: 0, data: Buffer.alloc(0) };

export class PageCoding {
  readonly #options: PageCodingOptions;
  readonly #advisor = new CompressionAdvisor();
  #encoder: PageEncoder;
  readonly #nowUs: () => number;
  #lastRawBytes = 0;
  #coded = 0;
  #underWay: Batch[] = [];
  #confirmedUs: number | undefined;
  /** Of pages as they were, without and with compression. */
  #plainRate = new Rate();
  #compressedRate = new Rate();
  #restsUntilUs = 0;

  /** The destination's RAM is all zeroes. */
  constructor(options: PageCodingOptions) {
    this.#options = options;
    this.#nowUs = options.nowUs ?? monotonicUs;
    this.#encoder = this.#newEncoder({ remembers: true, destinationIsZero: true });
  }

  /** The destination's RAM is what it had kept, not zeroes. Before the first page. */
  destinationHasImage(): void {
    this.#encoder = this.#newEncoder({ remembers: true, destinationIsZero: false });
  }

  /** From here on each page is sent once in a session, whatever the destination had of it. */
  forget(): void {
    this.#encoder = this.#newEncoder({ remembers: false, destinationIsZero: false });
  }

  /** One at a time: batches are sent in the order in which they are encoded. */
  async code(ranges: readonly PageRange[]): Promise<CodedBatch> {
    const batch = this.#encode(ranges);
    this.#lastRawBytes = batch.data.length;
    if (this.#options.compress === 'off' || this.#goesPlain()) {
      return coded(batch, encodeChecked(batch));
    }
    return coded(batch, await codeBatch(batch, this.#advisor, this.#nowUs));
  }

  /** Nobody reads the batch's memory any more: it is used again. */
  recycle(batch: PageBatch): void {
    this.#encoder.recycle(batch);
  }

  /** The batch that `code` gave last is on its way. */
  sent(sequence: number, bytes: number): void {
    if (this.#options.compress === 'off') return;
    this.#underWay.push({ sequence, bytes, rawBytes: this.#lastRawBytes });
    const limit = this.#options.bytesPerSecondMax;
    // A link that is not to be filled is as slow as it is allowed to be.
    if (limit !== null) this.#measured(bytes, (bytes * SECOND_US) / limit);
  }

  /** All batches up to `sequence` are in the destination's RAM. */
  confirmed(sequence: number): void {
    const nowUs = this.#nowUs();
    const sinceUs = this.#confirmedUs;
    const end = this.#underWay.findIndex((batch) => batch.sequence > sequence);
    const batches = this.#underWay.splice(0, end === -1 ? this.#underWay.length : end);
    this.#confirmedUs = this.#underWay.length > 0 ? nowUs : undefined;
    const bytes = batches.reduce((sum, batch) => sum + batch.bytes, 0);
    if (sinceUs === undefined || bytes === 0) return;
    this.#measured(bytes, nowUs - sinceUs);
    this.#judge(batches, nowUs - sinceUs);
  }

  /** Another session: what was under way may be lost, and nothing is known of the destination. */
  restart(): void {
    this.#encoder.forget();
    this.#underWay = [];
    this.#confirmedUs = undefined;
  }

  /** One in some, to know what would be without compression; all of them while it rests. */
  #goesPlain(): boolean {
    this.#coded += 1;
    const { compressing } = this.#advisor.figures;
    if (compressing && this.#coded % PLAIN_EVERY === 0) return true;
    return this.#nowUs() < this.#restsUntilUs;
  }

  #measured(bytes: number, busyUs: number): void {
    this.#advisor.sent({ bytes, busyUs }, this.#nowUs());
  }

  /** Do pages cross faster with it? If not, it rests, and what it does without is seen. */
  #judge(batches: readonly Batch[], busyUs: number): void {
    // Of pages that are zero or as they were, nothing can be said.
    if (batches.some(({ rawBytes }) => rawBytes < JUDGED_BYTES_MIN)) return;
    const rawBytes = batches.reduce((sum, batch) => sum + batch.rawBytes, 0);
    const compressed = batches.filter((batch) => batch.bytes < batch.rawBytes).length;
    if (compressed === 0) this.#plainRate.add(rawBytes, busyUs);
    if (compressed !== batches.length) return;
    this.#compressedRate.add(rawBytes, busyUs);
    const [without, withIt] = [this.#plainRate.value, this.#compressedRate.value];
    if (without === undefined || withIt === undefined || withIt >= without) return;
    this.#restsUntilUs = this.#nowUs() + COMPRESSION_REST_US;
    this.#plainRate = new Rate();
    this.#compressedRate = new Rate();
  }

  #encode(ranges: readonly PageRange[]): PageBatch {
    const batches = [...this.#encoder.encode(ranges, this.#options.ram)];
    assert(batches.length <= 1, `${batches.length} batches of pages that should be one`);
    return batches[0] ?? EMPTY_BATCH;
  }

  #newEncoder(options: { remembers: boolean; destinationIsZero: boolean }): PageEncoder {
    const { remembers, destinationIsZero } = options;
    const { sizeBytes } = this.#options.ram;
    const cacheBytes = remembers ? Math.min(sizeBytes / 8, SENT_CACHE_BYTES) : 0;
    return new PageEncoder({
      ramPages: sizeBytes / PAGE_SIZE_BYTES,
      cacheBytes,
      destinationIsZero,
    });
  }
}

function coded(batch: PageBatch, checked: CheckedBatch): CodedBatch {
  const bytes = checked.parts.reduce((sum, { length }) => sum + length, 0);
  return { batch, checked, bytes };
}

/** Bytes by microseconds of some samples. */
class Rate {
  #bytes = 0;
  #us = 0;
  #samples = 0;

  add(bytes: number, us: number): void {
    this.#samples += 1;
    this.#bytes = this.#bytes * SAMPLE_KEPT + bytes;
    this.#us = this.#us * SAMPLE_KEPT + us;
  }

  /** Undefined while there are too few samples for a judgement. */
  get value(): number | undefined {
    return this.#samples < RATE_SAMPLES_MIN ? undefined : this.#bytes / Math.max(this.#us, 1);
  }
}
