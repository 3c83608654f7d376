/**
 * What has come of a guest before it can be loaded, and which pages it still lacks afterwards.
 *
 * Every claim of the peer is checked here: batches in order and within RAM, and at the switchover
 * the counts and digests of all that came before. A complaint is a sentence; after it nothing of
 * what came may be used.
 *
 * Until the switchover every batch is applied whole. After it (postcopy) only pages that are
 * missing are, each once: what the guest may have touched is never written again.
 */
import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { DEVICE_STATE_BYTES, UNAPPLIED_BATCHES } from './limits.js';
import type { SwitchoverSection } from './messages.js';
import { countPages, PageMap, withinRam } from './page-map.js';
import { deviceDigest } from './source-parts.js';
import { StreamDigest } from './stream-digest.js';

export interface Batch {
  readonly sequence: number;
  readonly ranges: readonly PageRange[];
  readonly crc: number;
}

interface Unapplied {
  readonly sequence: number;
  readonly ranges: readonly PageRange[];
}

interface Stream {
  next: number;
  /** Handed out to be applied, oldest first. */
  readonly unapplied: Unapplied[];
}

/** What an applied batch brought, and up to which one all are applied. */
export interface Applied {
  readonly ranges: readonly PageRange[];
  readonly upTo: number | undefined;
}

export class Arrivals {
  /** Postcopy: pages that have not come; empty before the switchover. */
  readonly missing: PageMap;
  /** By session; of earlier ones while something of them is being applied. */
  readonly #sessions = new Map<number, Stream>();
  readonly #digest = new StreamDigest();
  #deviceState: Buffer[] = [];
  #deviceBytes = 0;
  #lastPending = 0;
  #switchover: SwitchoverSection | undefined;
  #pages = 0;

  constructor(ramBytes: number) {
    this.missing = new PageMap(ramBytes / PAGE_SIZE_BYTES);
  }

  get switchover(): SwitchoverSection | undefined {
    return this.#switchover;
  }

  /** Pages that came, those that came twice included. */
  get pages(): number {
    return this.#pages;
  }

  get deviceState(): Buffer {
    return Buffer.concat(this.#deviceState);
  }

  /** Nothing that came is still to be applied. */
  get allApplied(): boolean {
    return this.#unapplied().length === 0;
  }

  /** The page is in a batch that is being applied. */
  isPlacing(page: number): boolean {
    const at = page * PAGE_SIZE_BYTES;
    const holds = ({ offset, length }: PageRange) => at >= offset && at < offset + length;
    return this.#unapplied().some(({ ranges }) => ranges.some(holds));
  }

  /** What of the batch is to be applied, or a complaint. */
  add(session: number, batch: Batch): readonly PageRange[] | string {
    const { sequence, ranges, crc } = batch;
    const line = this.#sessions.get(session) ?? { next: 0, unapplied: [] };
    if (sequence !== line.next) return `batch ${sequence} instead of ${line.next}`;
    if (line.unapplied.length >= UNAPPLIED_BATCHES) {
      return `more than ${UNAPPLIED_BATCHES} batches that were not confirmed`;
    }
    if (!withinRam(ranges, this.missing.pages)) return 'a batch of pages outside of RAM';
    let wanted = ranges;
    if (this.#switchover !== undefined) {
      wanted = this.missing.intersect(ranges);
      this.missing.deleteAll(wanted);
    } else {
      this.#digest.add(crc);
    }
    line.next += 1;
    this.#pages += countPages(ranges);
    line.unapplied.push({ sequence, ranges: wanted });
    this.#sessions.set(session, line);
    return wanted;
  }

  /** Undefined: this batch was not handed out. */
  applied(session: number, sequence: number): Applied | undefined {
    const line = this.#sessions.get(session);
    const index = line?.unapplied.findIndex((batch) => batch.sequence === sequence) ?? -1;
    const [batch] = index === -1 ? [] : (line?.unapplied.splice(index, 1) ?? []);
    if (line === undefined || batch === undefined) return undefined;
    // A later one that is done first is confirmed with those before it.
    const upTo = index === 0 ? (line.unapplied[0]?.sequence ?? line.next) - 1 : undefined;
    return { ranges: batch.ranges, upTo };
  }

  /** They have come another way, and are in RAM. */
  placed(ranges: readonly PageRange[]): void {
    this.#pages += countPages(ranges);
    this.missing.deleteAll(ranges);
  }

  addPending(ranges: readonly PageRange[]): string | undefined {
    if (this.#switchover !== undefined) return 'pending pages after the switchover';
    if (!withinRam(ranges, this.missing.pages)) return 'pending pages outside of RAM';
    if ((ranges[0]?.offset ?? this.#lastPending) < this.#lastPending) {
      return 'pending pages do not ascend';
    }
    const last = ranges.at(-1);
    if (last !== undefined) this.#lastPending = last.offset + last.length;
    this.missing.addAll(ranges);
    return undefined;
  }

  addDeviceState(bytes: Buffer): string | undefined {
    this.#deviceBytes += bytes.length;
    if (this.#switchover !== undefined) return 'device state after the switchover';
    if (this.#deviceBytes > DEVICE_STATE_BYTES) {
      return `a device state of more than ${DEVICE_STATE_BYTES} bytes`;
    }
    // What came is borrowed, and waits here.
    this.#deviceState.push(Buffer.from(bytes));
    return undefined;
  }

  addSwitchover(section: SwitchoverSection): string | undefined {
    if (this.#switchover !== undefined) return 'a second switchover';
    const has = {
      batches: this.#digest.batches,
      streamDigest: this.#digest.value,
      pendingPages: section.postcopy ? this.missing.size : section.pendingPages,
      deviceStateBytes: this.#deviceBytes,
      deviceStateDigest: deviceDigest(this.deviceState),
    };
    for (const [name, value] of Object.entries(has)) {
      const said = section[name as keyof typeof has];
      if (said !== value) return `a switchover that says ${name} ${said}, here it is ${value}`;
    }
    if (!section.postcopy && (this.missing.size > 0 || section.pendingPages > 0)) {
      return 'pending pages without postcopy';
    }
    this.#switchover = section;
    return undefined;
  }

  #unapplied(): Unapplied[] {
    return [...this.#sessions.values()].flatMap(({ unapplied }) => unapplied);
  }
}
