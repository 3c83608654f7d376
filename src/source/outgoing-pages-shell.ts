/**
 * The pages that leave: coded from guest RAM and put on their links, in the order of the core's
 * orders. There are two streams: what is demanded does not wait for what is not.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { SessionChannel } from '../guest/index.js';
import type { PageRange } from '../lib/index.js';
import type { DestinationSection, PageStream, SourceSection } from '../migration/index.js';
import { BatchMemory } from './batch-memory.js';
import { PageCoding, type PageCodingOptions } from './page-coding-shell.js';

type Channel = SessionChannel<SourceSection, DestinationSection>;

export interface Order {
  readonly stream: PageStream;
  readonly sequence: number;
  readonly ranges: readonly PageRange[];
}

/** Of a batch as coded; `crc` is its CRC-32C. */
export interface SentBatch {
  readonly bytes: number;
  readonly crc: number;
}

export class OutgoingPages {
  readonly #coding: PageCoding;
  readonly #memory = new BatchMemory();
  /** Of the ram link: batches, one after the other, and what goes with them. */
  #ramStream: Promise<unknown> = Promise.resolve();
  /** The destination runs the guest, or is about to, and demands pages. */
  #postcopy = false;
  #sentBytes = 0;

  constructor(options: PageCodingOptions) {
    this.#coding = new PageCoding(options);
  }

  /** As coded. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** The destination's RAM is what it had kept, not zeroes. Before the first page. */
  destinationHasImage(): void {
    this.#coding.destinationHasImage();
  }

  /** Another session: what the one before carried may not have arrived. */
  restart(): void {
    this.#memory.restart();
    this.#coding.restart();
  }

  /** Each page is sent once from now on, whatever the destination had of it. */
  beginPostcopy(): void {
    this.#postcopy = true;
    this.#coding.forget();
  }

  /**
   * Codes these pages as they are when it is their turn. Resolves once they are on their link, to
   * undefined if there is no channel for them by then. Rejects with the link's error.
   */
  send(order: Order, channel: () => Channel | undefined): Promise<SentBatch | undefined> {
    if (order.stream === 'demanded') return this.#sendNow(order, channel);
    return this.afterPages(() => this.#sendNow(order, channel));
  }

  /** What goes on the ram link behind the pages that were ordered so far. */
  afterPages<T>(step: () => T | Promise<T>): Promise<T> {
    const done = this.#ramStream.then(step);
    this.#ramStream = done.catch(() => undefined);
    return done;
  }

  /** The destination has them. */
  received(stream: PageStream, sequence: number): void {
    for (const batch of this.#memory.received(stream, sequence)) this.#coding.recycle(batch);
    if (stream === 'ram') this.#coding.confirmed(sequence);
  }

  async #sendNow(
    order: Order,
    channelNow: () => Channel | undefined,
  ): Promise<SentBatch | undefined> {
    const { stream, sequence, ranges } = order;
    if (channelNow() === undefined) return undefined;
    const isDemanded = stream === 'demanded';
    const coded = isDemanded ? this.#coding.plain(ranges) : await this.#coding.code(ranges);
    const channel = channelNow();
    if (channel === undefined) return undefined;
    const { batch, checked, bytes } = coded;
    channel.putPages(isDemanded ? 'demanded' : 'pages', sequence, checked);
    this.#memory.sent(stream, sequence, batch);
    this.#sentBytes += bytes;
    if (!isDemanded) {
      this.#coding.sent(sequence, bytes);
      await channel.drained();
      // What is demanded meanwhile is heard before the next one is coded.
      if (this.#postcopy) await nextTurn();
    }
    return { bytes, crc: checked.crc };
  }
}
