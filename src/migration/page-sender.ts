/**
 * The source's pages: which are still to be sent, in which order, and how many at once.
 *
 * The order is ascending; in postcopy the pages around the last one that was demanded come first.
 * Demanded pages themselves go another way, beside all of this (fault-lane.ts): those that have
 * arrived need not be sent. Each page is sent once until it is put in again: what a session lost
 * comes back with the destination's list of missing pages.
 *
 * Two bounds hold the pages back: a window of batches that the destination has not confirmed, and a
 * bandwidth, kept by a time before which no further batch goes.
 */
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { AROUND_PAGES, BATCH_PAGES, WINDOW_POSTCOPY, WINDOW_PRECOPY } from './limits.js';
import { countPages, PageMap } from './page-map.js';
import { StreamDigest } from './stream-digest.js';

/** One batch to code and send. */
export interface BatchOrder {
  readonly sequence: number;
  readonly ranges: readonly PageRange[];
}

interface InFlight {
  readonly sequence: number;
  readonly ranges: readonly PageRange[];
  /** Undefined until it is coded. */
  bytes: number | undefined;
}

const SECOND_US = 1_000_000;

export class PageSender {
  /** To be sent, and not ordered yet. */
  readonly unsent: PageMap;
  /** Postcopy: not confirmed by the destination; what a backup file would need. */
  readonly unconfirmed: PageMap;
  /** Of the next batch. */
  #next = 0;
  /** Ordered and not confirmed, oldest first. */
  #inFlight: InFlight[] = [];
  #digest = new StreamDigest();
  #cursor = 0;
  /** Pages around the last demanded one, [from, end). */
  #around: readonly [number, number] | undefined;
  #notBeforeUs = 0;
  #pagesSent = 0;
  #bytesSent = 0;
  #demandedPages = 0;
  maxBandwidth: number | undefined;

  constructor(ramBytes: number, maxBandwidth: number | undefined) {
    this.unsent = new PageMap(ramBytes / PAGE_SIZE_BYTES);
    this.unconfirmed = new PageMap(ramBytes / PAGE_SIZE_BYTES);
    this.maxBandwidth = maxBandwidth;
  }

  get pagesSent(): number {
    return this.#pagesSent;
  }

  get bytesSent(): number {
    return this.#bytesSent;
  }

  get demandedPages(): number {
    return this.#demandedPages;
  }

  /** What was ordered. */
  get batches(): number {
    return this.#next;
  }

  /** Over what was coded. */
  get digest(): number {
    return this.#digest.value;
  }

  /** Every batch that was ordered is coded and on its link. */
  get allCoded(): boolean {
    return this.#digest.batches === this.#next;
  }

  /** Something is on its way that the destination has to confirm. */
  get owed(): boolean {
    return this.#inFlight.length > 0;
  }

  /** Bytes coded and not confirmed. */
  get unconfirmedBytes(): number {
    return this.#inFlight.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);
  }

  /** A new session: numbers begin again, and what was under way is for the caller to put in. */
  restart(): void {
    this.#next = 0;
    this.#inFlight = [];
    this.#digest = new StreamDigest();
    this.#cursor = 0;
    this.#around = undefined;
    this.#notBeforeUs = 0;
  }

  /** The pages to order now. `unlimited`: without regard to the bandwidth. */
  background(nowUs: number, how: { postcopy: boolean; unlimited: boolean }): BatchOrder[] {
    const orders: BatchOrder[] = [];
    while (this.#waits(how) && (how.unlimited || nowUs >= this.#notBeforeUs)) {
      const ranges = this.#take();
      if (this.maxBandwidth !== undefined) {
        // As if not compressed, until `coded` says how much it was: never too fast.
        const costUs = (countPages(ranges) * PAGE_SIZE_BYTES * SECOND_US) / this.maxBandwidth;
        this.#notBeforeUs = Math.ceil(Math.max(nowUs, this.#notBeforeUs) + costUs);
      }
      orders.push(this.#order(ranges));
    }
    return orders;
  }

  /** When `background` is worth another call though nothing came; undefined: not by time. */
  readyAtUs(how: { postcopy: boolean }): number | undefined {
    return this.maxBandwidth !== undefined && this.#waits(how) ? this.#notBeforeUs : undefined;
  }

  /** These were demanded, and are there. The guest is likely to ask for those beside them next. */
  placed(ranges: readonly PageRange[]): void {
    this.#demandedPages += countPages(ranges);
    const before = this.unsent.size;
    this.unsent.deleteAll(ranges);
    this.#pagesSent += before - this.unsent.size;
    this.unconfirmed.deleteAll(ranges);
    const last = ranges.at(-1);
    if (last === undefined) return;
    const page = last.offset / PAGE_SIZE_BYTES;
    this.#around = [Math.max(0, page - AROUND_PAGES / 4), page + AROUND_PAGES];
  }

  /** False: no such batch was ordered. */
  coded(sequence: number, result: { bytes: number; crc: number }): boolean {
    if (sequence !== this.#digest.batches || sequence >= this.#next) return false;
    this.#digest.add(result.crc);
    this.#bytesSent += result.bytes;
    const batch = this.#inFlight.find((found) => found.sequence === sequence);
    if (batch === undefined) return true;
    batch.bytes = result.bytes;
    if (this.maxBandwidth === undefined) return true;
    const spared = countPages(batch.ranges) * PAGE_SIZE_BYTES - result.bytes;
    this.#notBeforeUs -= Math.floor((spared * SECOND_US) / this.maxBandwidth);
    return true;
  }

  /** Confirms up to `sequence`. False: it was never sent. */
  received(sequence: number): boolean {
    if (sequence >= this.#next) return false;
    while (this.#inFlight[0] !== undefined && this.#inFlight[0].sequence <= sequence) {
      this.unconfirmed.deleteAll(this.#inFlight[0].ranges);
      this.#inFlight.shift();
    }
    return true;
  }

  /** There are pages, and the window has room for them. */
  #waits({ postcopy }: { postcopy: boolean }): boolean {
    const window = postcopy ? WINDOW_POSTCOPY : WINDOW_PRECOPY;
    return this.unsent.size > 0 && this.#inFlight.length < window;
  }

  #take(): PageRange[] {
    const most = this.#batchPages();
    if (this.#around !== undefined) {
      const [from, end] = this.#around;
      this.#around = undefined;
      const near = this.unsent.take(from, end, most);
      const last = near.at(-1);
      if (last !== undefined) {
        this.#around = [(last.offset + last.length) / PAGE_SIZE_BYTES, end];
        return near;
      }
    }
    if (this.unsent.next(this.#cursor) === undefined) this.#cursor = 0;
    const ranges = this.unsent.take(this.#cursor, this.unsent.pages, most);
    const last = ranges.at(-1) as PageRange;
    this.#cursor = (last.offset + last.length) / PAGE_SIZE_BYTES;
    return ranges;
  }

  /** With a small bandwidth a batch is small too: a quarter of a second, so that none is silent. */
  #batchPages(): number {
    if (this.maxBandwidth === undefined) return BATCH_PAGES;
    const pages = Math.floor(this.maxBandwidth / 4 / PAGE_SIZE_BYTES);
    return Math.max(1, Math.min(BATCH_PAGES, pages));
  }

  #order(ranges: readonly PageRange[]): BatchOrder {
    const sequence = this.#next;
    this.#next += 1;
    this.#inFlight.push({ sequence, ranges, bytes: undefined });
    this.#pagesSent += countPages(ranges);
    return { sequence, ranges };
  }
}
