/**
 * The bytes of each batch of pages: RAM -> encoder (zero pages, deltas) -> compression where it is
 * measured to pay -> the channel.
 *
 * What the link does is seen by what the destination confirms: a rate counts from one confirmation
 * to the next while more was under way all the time. Then the link, or who writes the pages behind
 * it, was what there was to wait for.
 */
import type { GuestRam } from '../emulator/index.js';
import { assert, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { monotonicUs } from '../linux/index.js';
import {
  CompressionAdvisor,
  codeBatch,
  encodeBatch,
  type PageBatch,
  PageEncoder,
} from '../migration/index.js';
import { SENT_CACHE_BYTES } from './limits.js';

export interface PageCodingOptions {
  readonly ram: GuestRam;
  readonly compress: 'auto' | 'off';
  /** Bytes in a second; null: no limit. */
  readonly bytesPerSecondMax: number | null;
}

const SECOND_US = 1_000_000;
const EMPTY_BATCH: PageBatch = { runs: [], pages: 0, data: Buffer.alloc(0) };

export class PageCoding {
  readonly #options: PageCodingOptions;
  readonly #advisor = new CompressionAdvisor();
  #encoder: PageEncoder;
  #underWay: { readonly sequence: number; readonly bytes: number }[] = [];
  #confirmedUs: number | undefined;

  /** The destination's RAM is all zeroes. */
  constructor(options: PageCodingOptions) {
    this.#options = options;
    this.#encoder = this.#newEncoder({ remembers: true, destinationIsZero: true });
  }

  /** The destination's RAM is what it had kept, not zeroes. Before the first page. */
  destinationHasImage(): void {
    this.#encoder = this.#newEncoder({ remembers: true, destinationIsZero: false });
  }

  /** From here on each page is sent once, whatever the destination had of it. */
  forget(): void {
    this.#encoder = this.#newEncoder({ remembers: false, destinationIsZero: false });
  }

  /** Uncompressed: for pages that somebody waits for. */
  plain(ranges: readonly PageRange[]): Buffer {
    return Buffer.concat(encodeBatch(this.#encode(ranges)));
  }

  /** One at a time: batches are sent in the order in which they are encoded. */
  async code(ranges: readonly PageRange[]): Promise<Buffer> {
    if (this.#options.compress === 'off') return this.plain(ranges);
    return Buffer.concat(await codeBatch(this.#encode(ranges), this.#advisor, monotonicUs));
  }

  /** The batch of `code` is on its way. */
  sent(sequence: number, bytes: number): void {
    if (this.#options.compress === 'off') return;
    this.#underWay.push({ sequence, bytes });
    const limit = this.#options.bytesPerSecondMax;
    // A link that is not to be filled is as slow as it is allowed to be.
    if (limit !== null) this.#measured(bytes, (bytes * SECOND_US) / limit);
  }

  /** All batches up to `sequence` are in the destination's RAM. */
  confirmed(sequence: number): void {
    const sinceUs = this.#confirmedUs;
    let bytes = 0;
    while (this.#underWay[0] !== undefined && this.#underWay[0].sequence <= sequence) {
      bytes += this.#underWay.shift()?.bytes ?? 0;
    }
    const nowUs = monotonicUs();
    if (sinceUs !== undefined && bytes > 0) this.#measured(bytes, nowUs - sinceUs);
    this.#confirmedUs = this.#underWay.length > 0 ? nowUs : undefined;
  }

  /** In a new session nothing is under way. */
  restart(): void {
    this.#underWay = [];
    this.#confirmedUs = undefined;
  }

  #measured(bytes: number, busyUs: number): void {
    this.#advisor.sent({ bytes, busyUs }, monotonicUs());
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
