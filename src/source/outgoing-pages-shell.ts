/**
 * The pages that leave: coded from guest RAM and put on their links, in the order of the core's
 * orders. There are two streams: what is demanded does not wait for what is not.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { GuestRam } from '../emulator/index.js';
import type { SessionChannel } from '../guest/index.js';
import { assert, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import {
  type DestinationSection,
  encodeChecked,
  type PageBatch,
  PageEncoder,
  type PageStream,
  type SourceSection,
} from '../migration/index.js';
import { BatchMemory } from './batch-memory.js';
import { SENT_CACHE_BYTES } from './limits.js';

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
  readonly #ram: GuestRam;
  readonly #memory = new BatchMemory();
  #encoder: PageEncoder;
  /** Of the ram link: batches, one after the other, and what goes with them. */
  #ramStream: Promise<unknown> = Promise.resolve();
  /** The destination runs the guest, or is about to, and demands pages. */
  #postcopy = false;
  #sentBytes = 0;

  constructor(ram: GuestRam) {
    this.#ram = ram;
    const ramPages = ram.sizeBytes / PAGE_SIZE_BYTES;
    const cacheBytes = Math.min(ram.sizeBytes / 8, SENT_CACHE_BYTES);
    this.#encoder = new PageEncoder({ ramPages, cacheBytes, destinationIsZero: true });
  }

  /** As coded. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** Another session: what the one before carried may not have arrived. */
  restart(): void {
    this.#memory.restart();
    this.#assumeNothing();
  }

  /** Each page is sent once from now on, whatever the destination had of it. */
  beginPostcopy(): void {
    this.#postcopy = true;
    this.#assumeNothing();
  }

  /**
   * Codes these pages as they are when it is their turn. Resolves once they are on their link, to
   * undefined if there is no channel for them by then. Rejects with the link's error.
   */
  send(order: Order, channel: () => Channel | undefined): Promise<SentBatch | undefined> {
    if (order.stream === 'demanded') return this.#sendNow(order, channel());
    return this.afterPages(() => this.#sendNow(order, channel()));
  }

  /** What goes on the ram link behind the pages that were ordered so far. */
  afterPages<T>(step: () => T | Promise<T>): Promise<T> {
    const done = this.#ramStream.then(step);
    this.#ramStream = done.catch(() => undefined);
    return done;
  }

  /** The destination has them. */
  received(stream: PageStream, sequence: number): void {
    for (const batch of this.#memory.received(stream, sequence)) this.#encoder.recycle(batch);
  }

  /** No page is left out, or sent as a difference, for what the destination has. */
  #assumeNothing(): void {
    const ramPages = this.#ram.sizeBytes / PAGE_SIZE_BYTES;
    this.#encoder = new PageEncoder({ ramPages, cacheBytes: 0, destinationIsZero: false });
  }

  async #sendNow(order: Order, channel: Channel | undefined): Promise<SentBatch | undefined> {
    if (channel === undefined) return undefined;
    const { stream, sequence, ranges } = order;
    const batches = [...this.#encoder.encode(ranges, this.#ram)];
    assert(batches.length <= 1, `${batches.length} batches of pages that should be one`);
    const batch = batches[0] ?? EMPTY_BATCH;
    const checked = encodeChecked(batch);
    channel.putPages(stream === 'ram' ? 'pages' : 'demanded', sequence, checked);
    this.#memory.sent(stream, sequence, batch);
    const bytes = checked.parts.reduce((sum, { length }) => sum + length, 0);
    this.#sentBytes += bytes;
    if (stream === 'ram') {
      await channel.drained();
      // What is demanded meanwhile is heard before the next one is coded.
      if (this.#postcopy) await nextTurn();
    }
    return { bytes, crc: checked.crc };
  }
}

const EMPTY_BATCH: PageBatch = { runs: [], pages: 0, data: Buffer.alloc(0) };
