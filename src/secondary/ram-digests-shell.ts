/**
 * Digests of the RAM that this host has of the guest, for a primary that compares: of the RAM file
 * that the SVM was launched with, as it is now. Pages of the primary come between, but only of what
 * has been digested already: it asks in ascending order and sends what the answers have shown.
 */
import { setImmediate } from 'node:timers/promises';
import type { GuestRam } from '../emulator/index.js';
import { ColoError, PAGE_SIZE_BYTES, ProtocolError } from '../lib/index.js';
import {
  type DigestedPages,
  digestPresent,
  encodeDigestBatch,
  pageBitmapOf,
} from '../migration/index.js';
import { DIGESTS_WANTED_MAX, encodeRamDigests, type WantedDigests } from '../replication/index.js';
import type { Link } from '../transport/index.js';
import { DIGEST_PAGES_PER_TURN } from './limits.js';

export interface RamDigestsOptions {
  readonly link: Pick<Link, 'send' | 'drained'>;
  readonly ram: Pick<GuestRam, 'sizeBytes' | 'readFile' | 'dataRanges'>;
  readonly salt: Buffer;
  /** That of the hello. */
  readonly epoch: number;
}

export class RamDigests {
  readonly #options: RamDigestsOptions;
  readonly #ramPages: number;
  #pages: DigestedPages | undefined;
  #next = 0;
  #unanswered = 0;
  #work: Promise<void> = Promise.resolve();

  constructor(options: RamDigestsOptions) {
    this.#options = options;
    this.#ramPages = options.ram.sizeBytes / PAGE_SIZE_BYTES;
  }

  /** The primary has asked for those of all pages. */
  get isComplete(): boolean {
    return this.#next === this.#ramPages;
  }

  /** Answered when it can be. Throws ProtocolError. */
  wanted({ first, pages }: WantedDigests): void {
    if (first !== this.#next || this.#unanswered >= DIGESTS_WANTED_MAX) {
      throw new ProtocolError(`Digests of page ${first} are wanted instead of ${this.#next}`);
    }
    this.#next = first + pages;
    this.#unanswered += 1;
    this.#work = this.#work.then(() => this.#answer({ first, pages }));
  }

  async #answer({ first, pages }: WantedDigests): Promise<void> {
    const { link, epoch } = this.#options;
    try {
      for (let done = 0; done < pages; ) {
        const count = Math.min(DIGEST_PAGES_PER_TURN, pages - done);
        const batch = { first: first + done, digests: this.#digest(first + done, count) };
        done += count;
        if (done === pages) this.#unanswered -= 1;
        const bytes = encodeDigestBatch(batch, this.#ramPages);
        const { type, parts } = encodeRamDigests(epoch, bytes);
        link.send(type, parts);
        await link.drained();
        await setImmediate();
      }
    } catch (error) {
      // The session or the guest has ended, which others tell.
      if (!(error instanceof ColoError)) throw error;
    }
  }

  #digest(first: number, count: number): Buffer {
    const { ram, salt } = this.#options;
    this.#pages ??= {
      source: { copyOut: (offset, target) => ram.readFile(offset, target) },
      present: pageBitmapOf(this.#ramPages, ram.dataRanges()),
      salt,
    };
    return digestPresent(this.#pages, first, count);
  }
}
