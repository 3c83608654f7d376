/**
 * The pages that leave: coded from guest RAM and put on the ram link, in the order of the core's
 * orders. What the destination demands is sent beside them, by a thread of its own.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { GuestRam } from '../emulator/index.js';
import { FaultSource, type SessionChannel } from '../guest/index.js';
import type { Logger, PageRange } from '../lib/index.js';
import type { DestinationSection, SourceSection } from '../migration/index.js';
import type { Session } from '../transport/index.js';
import { BatchMemory } from './batch-memory.js';
import { PageCoding, type PageCodingOptions } from './page-coding-shell.js';

type Channel = SessionChannel<SourceSection, DestinationSection>;

export interface OutgoingPagesOptions extends PageCodingOptions {
  readonly ram: GuestRam;
  readonly log: Logger;
  /** The destination may run the guest before it has all pages. */
  readonly lacksPages: boolean;
  /** Nobody sends what is demanded any more. */
  readonly onFailure: (error: Error) => void;
}

export interface Order {
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

  readonly #options: OutgoingPagesOptions;
  #lane: FaultSource | undefined;

  constructor(options: OutgoingPagesOptions) {
    this.#options = options;
    this.#coding = new PageCoding(options);
    if (options.lacksPages) this.#lane = this.#newLane();
  }

  /** Of each session, as soon as it is there. */
  async attach(session: Session): Promise<void> {
    if (this.#options.lacksPages) this.#lane ??= this.#newLane();
    await this.#lane?.attach(session);
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

  /**
   * Each page is sent once from now on, whatever the destination had of it. Before the destination
   * knows that it lacks any: it may demand them at once.
   */
  beginPostcopy(): void {
    this.#postcopy = true;
    this.#coding.forget();
    this.#lane?.begin();
  }

  /** The guest may go on, or end, when it resolves: nothing is sent on demand. Idempotent. */
  async stop(): Promise<void> {
    await this.#lane?.stop();
  }

  /** The same for good; the thread ends behind the session. */
  async end(sessionOver: () => Promise<void> | undefined): Promise<void> {
    await this.stop();
    await sessionOver();
    await this.#lane?.end();
  }

  /**
   * Codes these pages as they are when it is their turn. Resolves once they are on their link, to
   * undefined if there is no channel for them by then. Rejects with the link's error.
   */
  send(order: Order, channel: () => Channel | undefined): Promise<SentBatch | undefined> {
    return this.afterPages(() => this.#sendNow(order, channel));
  }

  /** What goes on the ram link behind the pages that were ordered so far. */
  afterPages<T>(step: () => T | Promise<T>): Promise<T> {
    const done = this.#ramStream.then(step);
    this.#ramStream = done.catch(() => undefined);
    return done;
  }

  /** The destination has them. */
  received(sequence: number): void {
    for (const batch of this.#memory.received(sequence)) this.#coding.recycle(batch);
    this.#coding.confirmed(sequence);
  }

  #newLane(): FaultSource {
    const { ram, log, onFailure } = this.#options;
    const lane = new FaultSource({
      ...{ ram: ram.handle, log },
      onFailure: (error) => {
        this.#lane = undefined;
        onFailure(error);
      },
    });
    if (this.#postcopy) lane.begin();
    return lane;
  }

  async #sendNow(
    order: Order,
    channelNow: () => Channel | undefined,
  ): Promise<SentBatch | undefined> {
    const { sequence, ranges } = order;
    if (channelNow() === undefined) return undefined;
    const { batch, checked, bytes } = await this.#coding.code(ranges);
    const channel = channelNow();
    if (channel === undefined) return undefined;
    channel.putPages(sequence, checked);
    this.#memory.sent(sequence, batch);
    this.#sentBytes += bytes;
    this.#coding.sent(sequence, bytes);
    await channel.drained();
    // What is heard meanwhile may change which pages go next; and whoever prepares the pause, or
    // waits for a file, is not to wait for a window of batches.
    await nextTurn();
    return { bytes, crc: checked.crc };
  }
}
