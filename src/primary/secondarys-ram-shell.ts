/**
 * What the secondary has of the guest's RAM, by its digests: from when the guest was there last, or
 * from a synchronisation that was broken off. They are asked for a few at a time, so that a large
 * RAM needs no more memory than a small one, and what differs is sent while the next ones are made.
 */
import { clearTimeout, setTimeout } from 'node:timers';
import {
  ColoError,
  type Deferred,
  deferred,
  PAGE_SIZE_BYTES,
  type PageRange,
  ProtocolError,
} from '../lib/index.js';
import {
  type ComparedPages,
  RamComparison,
  type RamComparisonOptions,
} from '../migration/index.js';
import { DIGESTS_WANTED_MAX, decodeRamDigests, encodeDigestsWanted } from '../replication/index.js';
import type { Session } from '../transport/index.js';
import { DIGEST_PAGES, DIGESTS_TIMEOUT_MS } from './limits.js';

export interface SecondarysRamOptions {
  readonly session: Pick<Session, 'onClose'> & { readonly links: Pick<Session['links'], 'ram'> };
  /** As in the hello. */
  readonly epoch: number;
  readonly salt: Buffer;
}

export class SecondarysRam {
  readonly #options: SecondarysRamOptions;
  /** Not taken yet. */
  readonly #compared: ComparedPages[] = [];
  #news: Deferred<void> = deferred();
  #failure: Error | undefined;

  constructor(options: SecondarysRamOptions) {
    this.#options = options;
  }

  /**
   * All pages of `ram`, in batches that ascend; those that differ from what the secondary has are
   * to be sent before the next batch is taken. `present`: see RamComparison. Once. Throws when the
   * session ends; whatever else the secondary sends ends it.
   */
  async *compare(
    ram: RamComparisonOptions['ram'],
    present: readonly PageRange[],
  ): AsyncGenerator<ComparedPages> {
    const { session, epoch, salt } = this.#options;
    const link = session.links.ram;
    const comparison = new RamComparison({ ram, salt, present });
    const pages = ram.sizeBytes / PAGE_SIZE_BYTES;
    let [asked, taken] = [0, 0];
    session.onClose(() => this.#fail(new ColoError('COLO_E_SESSION', 'The session is over')));
    link.onFrame(({ type, payload }) => {
      const compared = comparison.add(decodeRamDigests(type, payload, epoch));
      const end = compared.first + compared.count;
      if (end > asked) throw new ProtocolError(`Digests up to page ${end}, asked for ${asked}`);
      this.#compared.push(compared);
      this.#news.resolve();
    });
    while (taken < pages) {
      // The last of them may be answered in part.
      while (asked < pages && asked - taken <= (DIGESTS_WANTED_MAX - 1) * DIGEST_PAGES) {
        const wanted = { first: asked, pages: Math.min(DIGEST_PAGES, pages - asked) };
        asked += wanted.pages;
        const { type, parts } = encodeDigestsWanted(epoch, wanted);
        link.send(type, parts);
      }
      const compared = await this.#next();
      taken += compared.count;
      yield compared;
    }
  }

  async #next(): Promise<ComparedPages> {
    const late = new ProtocolError(`No digests came within ${DIGESTS_TIMEOUT_MS} ms`);
    const timer = setTimeout(() => this.#fail(late), DIGESTS_TIMEOUT_MS);
    try {
      for (;;) {
        // What happened while nobody waited.
        if (this.#failure !== undefined) throw this.#failure;
        const compared = this.#compared.shift();
        if (compared !== undefined) return compared;
        this.#news = deferred();
        await this.#news.promise;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#news.resolve();
  }
}
