/**
 * The pages that a guest waits for, which have a link and at each end a thread to themselves. This
 * is what these threads decide: at the destination what is asked for, at the source what is sent.
 *
 * The source's RAM stands still, and a page is placed only where none is. So neither needs to know
 * what else is sent: a page that comes twice is placed once, and each demand is answered whatever
 * the source believes to be there. What has come is told to the cores afterwards.
 */
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { DEMAND_QUEUE, DEMANDED_BATCH_PAGES, DEMANDED_PAGES, NEAR_PAGES } from './limits.js';
import { countPages, rangeOf, withinRam } from './page-map.js';

/** Whether the destination still lacks this page. */
export type IsMissing = (page: number) => boolean;

export interface FaultDemandsOptions {
  /** Of guest RAM. */
  readonly pages: number;
  /** The pages beside one that is waited for are asked for, too. */
  readonly near: boolean;
  readonly isMissing: IsMissing;
}

/** The destination's end, of one migration: each page is asked for once in a session. */
export class FaultDemands {
  readonly #options: FaultDemandsOptions;
  readonly #asked = new Set<number>();
  /** Of the next batch. */
  #next = 0;

  constructor(options: FaultDemandsOptions) {
    this.#options = options;
  }

  /** Somebody waits for the page: what is to be demanded for it, perhaps nothing. */
  faulted(page: number): PageRange[] {
    if (this.#asked.has(page)) return [];
    this.#asked.add(page);
    return [rangeOf(page, 1), ...this.#beside(page)];
  }

  /** Another session: what to demand for the pages that are waited for, a section for each list. */
  restart(waitedFor: readonly number[]): PageRange[][] {
    this.#asked.clear();
    this.#next = 0;
    const lists: PageRange[][] = [];
    for (let at = 0; at < waitedFor.length; at += DEMANDED_PAGES) {
      const pages = waitedFor.slice(at, at + DEMANDED_PAGES);
      for (const page of pages) this.#asked.add(page);
      lists.push(pages.map((page) => rangeOf(page, 1)));
    }
    return lists;
  }

  /** A batch has come. Gives what is wrong with it. */
  arrived(sequence: number, ranges: readonly PageRange[]): string | undefined {
    if (sequence !== this.#next) {
      return `demanded batch ${sequence} instead of ${this.#next}`;
    }
    this.#next += 1;
    for (const { offset, length } of ranges) {
      for (let at = offset; at < offset + length; at += PAGE_SIZE_BYTES) {
        const page = at / PAGE_SIZE_BYTES;
        if (!this.#asked.delete(page)) return `page ${page}, which was not demanded`;
      }
    }
    return undefined;
  }

  /** Pages of its aligned block that are missing and not asked for. */
  #beside(page: number): PageRange[] {
    const { near, pages, isMissing } = this.#options;
    if (!near) return [];
    const first = page - (page % NEAR_PAGES);
    const end = Math.min(first + NEAR_PAGES, pages);
    const found: PageRange[] = [];
    let from = first;
    for (let at = first; at <= end; at += 1) {
      const wanted = at < end && at !== page && isMissing(at) && !this.#asked.has(at);
      if (wanted) {
        this.#asked.add(at);
        continue;
      }
      if (at > from) found.push(rangeOf(from, at - from));
      from = at + 1;
    }
    return found;
  }
}

/** The source's end, of one session: what was demanded and waits for the link. */
export class DemandQueue {
  readonly #pages: number;
  #waiting: PageRange[] = [];
  #waitingPages = 0;

  /** Of guest RAM. */
  constructor(pages: number) {
    this.#pages = pages;
  }

  /** Gives what is wrong with the demand. */
  add(ranges: readonly PageRange[]): string | undefined {
    const pages = countPages(ranges);
    if (pages > DEMANDED_PAGES || !withinRam(ranges, this.#pages)) {
      return 'The destination demands pages that it can not lack';
    }
    this.#waitingPages += pages;
    if (this.#waitingPages > DEMAND_QUEUE) return 'The destination demands more than can wait';
    for (const range of ranges) this.#waiting.push(...split(range));
    return undefined;
  }

  /** The pages of the next batch. */
  take(): PageRange | undefined {
    const range = this.#waiting.shift();
    if (range !== undefined) this.#waitingPages -= countPages([range]);
    return range;
  }
}

function split({ offset, length }: PageRange): PageRange[] {
  const pieces: PageRange[] = [];
  const most = DEMANDED_BATCH_PAGES * PAGE_SIZE_BYTES;
  for (let at = 0; at < length; at += most) {
    pieces.push({ offset: offset + at, length: Math.min(most, length - at) });
  }
  return pieces;
}
