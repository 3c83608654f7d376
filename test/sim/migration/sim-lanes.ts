/** The threads that serve a guest's faults at the two ends: they go on while a main thread stalls. */
import type { PageRange } from '../../../src/lib/index.js';
import {
  type DemandedSection,
  DemandQueue,
  type DemandSection,
  FaultDemands,
} from '../../../src/migration/index.js';
import type { World } from '../world.js';
import { ABSENT, type SimGuest, Violation } from './guest.js';
import type { SimLink } from './link.js';
import type { Breakage, MigrationSimOptions } from './options.js';
import { decodePages, encodePages, type PageList, pagesIn, rangesOf } from './page-list.js';

interface Parts {
  readonly world: World;
  readonly options: MigrationSimOptions;
  readonly guest: SimGuest;
  readonly breakage: Breakage | undefined;
  readonly link: () => SimLink;
  readonly alive: () => boolean;
}

export interface SimLaneListener {
  readonly faulted: (pages: readonly number[]) => void;
  /** `waits`: how many have ended. */
  readonly placed: (ranges: readonly PageRange[], waits: number) => void;
}

/** Longest time until the main thread hears of what its lane did; and of one page. */
const REPORT_US = 3000;
const SERVE_US = 300;

export class SimTargetLane {
  readonly #parts: Parts;
  readonly #demands: FaultDemands;
  readonly #waiting = new Set<number>();
  readonly #listener: SimLaneListener;
  #session: number | undefined;

  constructor(parts: Parts, listener: SimLaneListener) {
    this.#parts = parts;
    this.#listener = listener;
    this.#demands = new FaultDemands({
      pages: parts.options.pages,
      near: parts.options.background,
      isMissing: (page) => this.#isMissing(page),
    });
  }

  attach(session: number): void {
    this.#session = session;
    for (const page of this.#waiting) if (!this.#isMissing(page)) this.#waiting.delete(page);
    for (const ranges of this.#demands.restart([...this.#waiting])) this.#demand(ranges);
  }

  fault(pages: readonly number[]): void {
    for (const page of pages) {
      if (!this.#isMissing(page)) continue;
      this.#waiting.add(page);
      const ranges = this.#demands.faulted(page);
      if (ranges.length > 0) this.#demand(ranges);
    }
    this.#later(() => this.#listener.faulted(pages));
  }

  /** Gives whether anything was placed. */
  take(session: number, { sequence, batch }: DemandedSection): boolean {
    if (session !== this.#session) return false;
    const pages = decodePages(batch);
    const ranges = rangesOf(pages.map(([page]) => page));
    const complaint = this.#demands.arrived(sequence, ranges);
    if (complaint !== undefined) throw new Violation(`The lane understands: ${complaint}`);
    const { guest, breakage } = this.#parts;
    const memory = guest.memory('destination');
    let waits = 0;
    for (const [page, version] of pages) {
      if (this.#waiting.delete(page)) waits += 1;
      if (breakage !== 'overwrite' && memory[page] !== ABSENT) continue;
      memory[page] = version;
      guest.arrived(page);
    }
    this.#later(() => this.#listener.placed(ranges, waits));
    return true;
  }

  #isMissing(page: number): boolean {
    return this.#parts.guest.memory('destination')[page] === ABSENT;
  }

  #demand(ranges: readonly PageRange[]): void {
    if (this.#session === undefined) return;
    this.#parts.link().put('destination', this.#session, { kind: 'demand', ranges });
  }

  #later(run: () => void): void {
    this.#parts.world.schedule(REPORT_US, () => {
      if (this.#parts.alive()) run();
    });
  }
}

export class SimSourceLane {
  readonly #parts: Parts;
  #session: { readonly id: number; readonly queue: DemandQueue; next: number } | undefined;
  #reads = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  attach(id: number): void {
    this.#session = { id, queue: new DemandQueue(this.#parts.options.pages), next: 0 };
  }

  begin(): void {
    this.#reads = true;
    this.#pump();
  }

  /** RAM may change, or is gone. */
  stop(): void {
    this.#reads = false;
  }

  take(session: number, { ranges }: DemandSection): void {
    if (session !== this.#session?.id) return;
    const complaint = this.#session.queue.add(ranges);
    if (complaint !== undefined) throw new Violation(`The lane understands: ${complaint}`);
    this.#parts.world.schedule(SERVE_US, () => this.#pump());
  }

  #pump(): void {
    const session = this.#session;
    if (session === undefined || !this.#reads || !this.#parts.alive()) return;
    for (let range = session.queue.take(); range !== undefined; range = session.queue.take()) {
      const memory = this.#parts.guest.memory('source');
      const pages: PageList = pagesIn([range]).map((page) => {
        return [page, memory[page] as number] as const;
      });
      const section: DemandedSection = {
        ...{ kind: 'demanded', sequence: session.next },
        batch: encodePages(pages),
      };
      session.next += 1;
      this.#parts.link().put('source', session.id, section);
    }
  }
}
