/**
 * The source's pages: which are still to be sent, in which order, and how many at once.
 *
 * In precopy the order is ascending. In postcopy demanded pages come first, on a stream of their
 * own and outside of window and bandwidth; then those around the last demanded one; then ascending.
 * Each page is sent once until it is put in again: what a session lost comes back with the
 * destination's list of missing pages.
 *
 * Two bounds hold the background back: a window of batches that the destination has not confirmed,
 * and a bandwidth, kept by a time before which no further batch goes.
 */
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import {
  AROUND_PAGES,
  BATCH_PAGES,
  BATCH_PAGES_POSTCOPY,
  DEMAND_PACE_US,
  DEMAND_QUIET_US,
  DEMANDED_PAGES,
  NEAR_PAGES,
  WINDOW_DEMANDED,
  WINDOW_POSTCOPY,
  WINDOW_PRECOPY,
} from './limits.js';
import type { PageStream } from './messages.js';
import { countPages, PageMap, rangeOf } from './page-map.js';
import { StreamDigest } from './stream-digest.js';

/** One batch to code and send. */
export interface BatchOrder {
  readonly stream: PageStream;
  readonly sequence: number;
  readonly ranges: readonly PageRange[];
}

interface InFlight {
  readonly sequence: number;
  readonly ranges: readonly PageRange[];
  /** Undefined until it is coded. */
  bytes: number | undefined;
}

interface Stream {
  next: number;
  /** Ordered and not confirmed, oldest first. */
  readonly inFlight: InFlight[];
}

const newStream = (): Stream => ({ next: 0, inFlight: [] });

const SECOND_US = 1_000_000;

export class PageSender {
  /** To be sent, and not ordered yet. */
  readonly unsent: PageMap;
  /** Postcopy: not confirmed by the destination; what a backup file would need. */
  readonly unconfirmed: PageMap;
  #streams: Readonly<Record<PageStream, Stream>> = { ram: newStream(), demanded: newStream() };
  #digest = new StreamDigest();
  #cursor = 0;
  /** Pages around the last demanded one, [from, end). */
  #around: readonly [number, number] | undefined;
  #notBeforeUs = 0;
  #demandedAtUs = Number.NEGATIVE_INFINITY;
  #backgroundAtUs = Number.NEGATIVE_INFINITY;
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

  /** Of the ram stream: what was ordered. */
  get batches(): number {
    return this.#streams.ram.next;
  }

  /** Of the ram stream, over what was coded. */
  get digest(): number {
    return this.#digest.value;
  }

  /** Every batch that was ordered is coded and on its link. */
  get allCoded(): boolean {
    return this.#digest.batches === this.#streams.ram.next;
  }

  /** Something is on its way that the destination has to confirm. */
  get owed(): boolean {
    const { ram, demanded } = this.#streams;
    return ram.inFlight.length + demanded.inFlight.length > 0;
  }

  /** Bytes coded and not confirmed. */
  get unconfirmedBytes(): number {
    return this.#streams.ram.inFlight.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);
  }

  /** A new session: numbers begin again, and what was under way is for the caller to put in. */
  restart(): void {
    this.#streams = { ram: newStream(), demanded: newStream() };
    this.#digest = new StreamDigest();
    this.#cursor = 0;
    this.#around = undefined;
    this.#notBeforeUs = 0;
  }

  /** The pages to order now. `unlimited`: without regard to the bandwidth. */
  background(nowUs: number, how: { postcopy: boolean; unlimited: boolean }): BatchOrder[] {
    const orders: BatchOrder[] = [];
    if (how.postcopy && nowUs < this.#quietUntilUs()) return orders;
    const window = this.#window(nowUs, how);
    while (
      this.unsent.size > 0 &&
      this.#streams.ram.inFlight.length < window &&
      (how.unlimited || nowUs >= this.#notBeforeUs)
    ) {
      const ranges = this.#take(how.postcopy ? BATCH_PAGES_POSTCOPY : BATCH_PAGES);
      this.#backgroundAtUs = nowUs;
      if (this.maxBandwidth !== undefined) {
        // As if not compressed, until `coded` says how much it was: never too fast.
        const costUs = (countPages(ranges) * PAGE_SIZE_BYTES * SECOND_US) / this.maxBandwidth;
        this.#notBeforeUs = Math.ceil(Math.max(nowUs, this.#notBeforeUs) + costUs);
      }
      orders.push(this.#order('ram', ranges));
    }
    return orders;
  }

  /** When `background` is worth another call though nothing came; undefined: not by time. */
  readyAtUs(how: { postcopy: boolean }): number | undefined {
    const quietUntilUs = how.postcopy ? this.#quietUntilUs() : Number.NEGATIVE_INFINITY;
    const atUs = Math.max(this.#notBeforeUs, quietUntilUs);
    const window = this.#window(atUs, how);
    const waits = this.unsent.size > 0 && this.#streams.ram.inFlight.length < window;
    const byTime = this.maxBandwidth !== undefined || Number.isFinite(quietUntilUs);
    return waits && byTime ? atUs : undefined;
  }

  /**
   * The guest waits for these; what is under way or there already is not sent again. With `near` the
   * pages beside a single one follow: the guest is likely to ask for them next.
   */
  demand(
    ranges: readonly PageRange[],
    { near, nowUs }: { near: boolean; nowUs: number },
  ): BatchOrder[] {
    this.#demandedAtUs = nowUs;
    const wanted = this.unsent.intersect(ranges);
    const last = ranges.at(-1);
    if (last !== undefined) {
      const page = last.offset / PAGE_SIZE_BYTES;
      this.#around = [Math.max(0, page - AROUND_PAGES / 4), page + AROUND_PAGES];
    }
    const orders: BatchOrder[] = [];
    const beside: PageRange[] = [];
    for (const range of wanted) {
      for (const piece of split(range)) {
        this.#demandedPages += piece.length / PAGE_SIZE_BYTES;
        // Alone: what went along would be copied and checked, too, before the page is placed.
        orders.push(...this.#orderDemanded([piece]));
        if (near) beside.push(...this.#beside(piece));
      }
    }
    return [...orders, ...beside.flatMap((range) => this.#orderDemanded([range]))];
  }

  /** False: nothing of this kind was ordered. */
  coded(stream: PageStream, sequence: number, result: { bytes: number; crc: number }): boolean {
    const batch = this.#streams[stream].inFlight.find((found) => found.sequence === sequence);
    if (stream === 'ram') {
      if (sequence !== this.#digest.batches || sequence >= this.#streams.ram.next) return false;
      this.#digest.add(result.crc);
    }
    this.#bytesSent += result.bytes;
    if (batch !== undefined) {
      batch.bytes = result.bytes;
      if (stream === 'ram' && this.maxBandwidth !== undefined) {
        const spared = countPages(batch.ranges) * PAGE_SIZE_BYTES - result.bytes;
        this.#notBeforeUs -= Math.floor((spared * SECOND_US) / this.maxBandwidth);
      }
    }
    return true;
  }

  /** Confirms up to `sequence`. False: it was never sent. */
  received(stream: PageStream, sequence: number): boolean {
    const { inFlight, next } = this.#streams[stream];
    if (sequence >= next) return false;
    while (inFlight[0] !== undefined && inFlight[0].sequence <= sequence) {
      this.unconfirmed.deleteAll(inFlight[0].ranges);
      inFlight.shift();
    }
    return true;
  }

  /** While pages are demanded, what nobody waits for stays out of their way. */
  #window(nowUs: number, { postcopy }: { postcopy: boolean }): number {
    if (!postcopy) return WINDOW_PRECOPY;
    if (this.#streams.demanded.inFlight.length > 0) return 0;
    return this.#isDemanding(nowUs) ? WINDOW_DEMANDED : WINDOW_POSTCOPY;
  }

  /** Postcopy: until then no batch goes that nobody waits for. */
  #quietUntilUs(): number {
    return Math.min(this.#backgroundAtUs + DEMAND_PACE_US, this.#demandedAtUs + DEMAND_QUIET_US);
  }

  #isDemanding(nowUs: number): boolean {
    return nowUs - this.#demandedAtUs < DEMAND_QUIET_US;
  }

  /** Those that went with others are not ordered again. */
  #orderDemanded(ranges: readonly PageRange[]): BatchOrder[] {
    const going = this.unsent.intersect(ranges);
    if (going.length === 0) return [];
    this.unsent.deleteAll(going);
    return [this.#order('demanded', going)];
  }

  /** The aligned block of a single page. */
  #beside(piece: PageRange): PageRange[] {
    if (piece.length > PAGE_SIZE_BYTES) return [];
    const page = piece.offset / PAGE_SIZE_BYTES;
    const first = page - (page % NEAR_PAGES);
    const end = Math.min(first + NEAR_PAGES, this.unsent.pages);
    return [rangeOf(first, end - first)];
  }

  #take(pagesMax: number): PageRange[] {
    const most = this.#batchPages(pagesMax);
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
  #batchPages(pagesMax: number): number {
    if (this.maxBandwidth === undefined) return pagesMax;
    const pages = Math.floor(this.maxBandwidth / 4 / PAGE_SIZE_BYTES);
    return Math.max(1, Math.min(pagesMax, pages));
  }

  #order(stream: PageStream, ranges: readonly PageRange[]): BatchOrder {
    const line = this.#streams[stream];
    const sequence = line.next;
    line.next += 1;
    line.inFlight.push({ sequence, ranges, bytes: undefined });
    this.#pagesSent += countPages(ranges);
    return { stream, sequence, ranges };
  }
}

function split(range: PageRange): PageRange[] {
  const pieces: PageRange[] = [];
  const first = range.offset / PAGE_SIZE_BYTES;
  const pages = range.length / PAGE_SIZE_BYTES;
  for (let at = 0; at < pages; at += BATCH_PAGES) {
    pieces.push(rangeOf(first + at, Math.min(BATCH_PAGES, pages - at)));
  }
  return pieces;
}

/** Whether a demand is within its bound. */
export function isDemand(ranges: readonly PageRange[]): boolean {
  return countPages(ranges) <= DEMANDED_PAGES;
}
