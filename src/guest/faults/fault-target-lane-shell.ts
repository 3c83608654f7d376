/**
 * The destination's end of the lane: a fault -> a demand on the faults link -> the page -> placed.
 * The main thread hears of all of it a little later.
 */
import { BorrowedFaults, type FaultFigures, type LentPages } from '../../emulator/index.js';
import { assert, PAGE_SIZE_BYTES, type PageRange, ProtocolError } from '../../lib/index.js';
import { monotonicUs } from '../../linux/index.js';
import {
  DESTINATION_SECTIONS,
  type DemandedSection,
  decodeBatch,
  FaultDemands,
  PageDecoder,
  SOURCE_SECTIONS,
} from '../../migration/index.js';
import type { LinkNotices } from '../../replication/index.js';
import type { Link, MainThread } from '../../transport/index.js';
import { SECTION_FRAME, sectionOf } from '../session-channel-shell.js';
import { Awake } from './awake-shell.js';
import { FIGURES_MS, REHEARSALS, REPORT_MS } from './limits.js';

export interface FaultTargetSettings {
  readonly ramSizeBytes: number;
  /** Pages beside one that is waited for are demanded, too. */
  readonly near: boolean;
  /** Pages are told with their bytes. */
  readonly tellsBytes: boolean;
}

/** What has happened since the last report. */
export interface FaultReport {
  /** Offsets of pages that somebody waits for. */
  readonly faulted: readonly number[];
  /** These have come by this way and are in RAM. */
  readonly placed: readonly PageRange[];
  /** Of waits that have ended, microseconds. */
  readonly waitsUs: readonly number[];
  /** Contents of `placed`, if they are wanted. */
  readonly contents: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
  /** Of all waits; now and then, and with the last report. */
  readonly figures: FaultFigures | undefined;
}

export interface FaultTargetNotices extends LinkNotices {
  report(report: FaultReport): void;
  /** To be placed by the main thread. */
  passOn(offset: number, bytes: Uint8Array): void;
}

export class FaultTargetLane {
  readonly #main: MainThread<FaultTargetNotices>;
  readonly #settings: FaultTargetSettings;
  /** Undefined until QEMU is there. */
  #faults: BorrowedFaults | undefined;
  readonly #demands: FaultDemands;
  readonly #decoder: PageDecoder;
  readonly #pages: number;
  #link: Link | undefined;
  /** While a page is on its way, and for the next fault. */
  readonly #awake = new Awake();
  #places = true;
  #rehearsals = 0;
  #faulted: number[] = [];
  #placed: PageRange[] = [];
  #waitsUs: number[] = [];
  #contents: { offset: number; bytes: Uint8Array }[] = [];
  #reporting: NodeJS.Timeout | undefined;
  #figuresAtUs = 0;

  constructor(main: MainThread<FaultTargetNotices>, settings: FaultTargetSettings) {
    this.#main = main;
    this.#settings = settings;
    const { ramSizeBytes, near } = settings;
    this.#pages = ramSizeBytes / PAGE_SIZE_BYTES;
    this.#demands = new FaultDemands({
      ...{ pages: this.#pages, near },
      isMissing: (page) => this.#lent.isMissing(page * PAGE_SIZE_BYTES),
    });
    this.#decoder = new PageDecoder(this.#pages, {
      copyOut: () => {
        throw new ProtocolError('A page that was demanded comes as a delta');
      },
      writeFile: (offset, bytes) => this.#arrived(offset, bytes),
    });
  }

  /** QEMU is there, whose faults these are. */
  lend(lent: LentPages): void {
    this.#faults = new BorrowedFaults(lent, {
      onFault: (offset) => this.#fault(offset),
      onWaited: (waitUs) => this.#waitsUs.push(waitUs),
    });
  }

  /** The link of another session: what is waited for is asked for there. */
  attach(link: Link): void {
    this.#link = link;
    const waitedFor = this.#faults?.waitedFor() ?? [];
    const lists = this.#demands.restart(waitedFor.map((offset) => offset / PAGE_SIZE_BYTES));
    link.onFrame((frame) => {
      const section = sectionOf(frame, SOURCE_SECTIONS, 'faults');
      if (section?.kind === 'demanded') this.#take(section);
    });
    for (const ranges of lists) this.#demand(ranges);
    this.#rehearse();
  }

  /** Pages are missing from now on. `places`: else pages go to the main thread, which does it. */
  serve({ places }: { places: boolean }): void {
    this.#places = places;
    this.#rehearsals = REHEARSALS;
    this.#lent.serve();
  }

  placeHere(): void {
    this.#places = true;
  }

  /** The faults are not this thread's any more. */
  stop(): void {
    this.#rehearsals = REHEARSALS;
    // Those that came by the other way meanwhile.
    this.#faults?.waitedFor();
    clearTimeout(this.#reporting);
    this.#figuresAtUs = 0;
    this.#report();
    this.#faults?.close();
  }

  get #lent(): BorrowedFaults {
    assert(this.#faults !== undefined, 'Nothing is missing before QEMU is there');
    return this.#faults;
  }

  #fault(offset: number): void {
    const ranges = this.#demands.faulted(offset / PAGE_SIZE_BYTES);
    if (ranges.length > 0) this.#demand(ranges);
    this.#awake.stay();
    this.#faulted.push(offset);
    this.#reportSoon();
  }

  #demand(ranges: readonly PageRange[]): void {
    this.#link?.send(SECTION_FRAME, DESTINATION_SECTIONS.encode({ kind: 'demand', ranges }));
  }

  /** One after the other, beside the launch of QEMU. */
  #rehearse(): void {
    if (this.#rehearsals >= REHEARSALS) return;
    this.#rehearsals += 1;
    this.#demand([]);
  }

  #take({ sequence, batch: bytes, crc }: DemandedSection): void {
    const batch = decodeBatch(bytes, this.#pages, crc);
    const ranges = batch.runs.map(({ first, count }) => {
      return { offset: first * PAGE_SIZE_BYTES, length: count * PAGE_SIZE_BYTES };
    });
    const complaint = this.#demands.arrived(sequence, ranges);
    if (complaint !== undefined) throw new ProtocolError(complaint);
    if (ranges.length === 0) {
      this.#rehearse();
      return;
    }
    this.#decoder.applyDecoded(batch);
    if (this.#places) this.#placed.push(...ranges);
    this.#reportSoon();
  }

  #arrived(offset: number, bytes: Buffer): void {
    if (!this.#places) {
      this.#main.notify('passOn', offset, new Uint8Array(bytes));
      this.#lent.passedOn({ offset, length: bytes.length });
      return;
    }
    this.#lent.place(offset, bytes);
    if (this.#settings.tellsBytes) this.#contents.push({ offset, bytes: new Uint8Array(bytes) });
  }

  #reportSoon(): void {
    this.#reporting ??= setTimeout(() => this.#report(), REPORT_MS);
  }

  #report(): void {
    this.#reporting = undefined;
    const nowUs = monotonicUs();
    const isDue = nowUs - this.#figuresAtUs >= FIGURES_MS * 1000;
    if (isDue) this.#figuresAtUs = nowUs;
    this.#main.notify('report', {
      faulted: this.#faulted,
      placed: this.#placed,
      waitsUs: this.#waitsUs,
      contents: this.#contents,
      figures: isDue ? this.#faults?.figures() : undefined,
    });
    this.#faulted = [];
    this.#placed = [];
    this.#waitsUs = [];
    this.#contents = [];
  }
}
