/**
 * What a host has of the guest's RAM from before, and what the primary makes of it. A value of the
 * model stands for a page and for its digest.
 *
 * The dirty tracker is asked first, then pages are compared as they are when the digests come; what
 * is written later is sent with the next round.
 */
import type { Breakage } from './checker.js';
import { PAGES } from './guest.js';
import type { TrackedRam } from './layers.js';
import type { Message } from './network.js';
import { type Sent, shipPages } from './shipping.js';

/** The answer to a hello of a host that has such RAM. */
export const HAS_RAM = 'ok, with RAM';
/** Pages of which digests are wanted at a time. */
const WANTED_PAGES = 8;

type Wanted = Extract<Message, { kind: 'digestsWanted' }>;
type Digests = Extract<Message, { kind: 'ramDigests' }>;

/** The secondary's answer. */
export function digestsOf(bases: readonly number[], { epoch, first, pages }: Wanted): Digests {
  return { kind: 'ramDigests', epoch, first, digests: bases.slice(first, first + pages) };
}

export interface ComparisonParts {
  readonly epoch: number;
  readonly ram: TrackedRam;
  /** Of the epoch that runs. */
  readonly sent: Sent;
  /** On the RAM link. */
  readonly send: (message: Message) => void;
  readonly done: () => void;
  readonly breakage: Breakage | undefined;
}

/** The primary's first round. */
export class SimComparison {
  readonly #parts: ComparisonParts;

  constructor(parts: ComparisonParts) {
    this.#parts = parts;
    parts.ram.scan();
    this.#ask(0);
  }

  add({ first, digests }: Digests): void {
    const { epoch, ram, sent, send, done, breakage } = this.#parts;
    // A sabotage: what differs counts as equal at times.
    const mismatches = (page: number): boolean => breakage === 'mismatch-kept' && page % 3 === 0;
    const copies: [number, number][] = [];
    for (const [index, digest] of digests.entries()) {
      const page = first + index;
      const value = ram.get(page);
      if (digest !== value && !mismatches(page)) copies.push([page, value]);
    }
    for (const [, ship] of shipPages({ epoch, copies, sent }, send)) ship();
    const next = first + digests.length;
    if (next < PAGES) this.#ask(next);
    else done();
  }

  #ask(first: number): void {
    const { send, epoch } = this.#parts;
    send({ kind: 'digestsWanted', epoch, first, pages: Math.min(WANTED_PAGES, PAGES - first) });
  }
}
