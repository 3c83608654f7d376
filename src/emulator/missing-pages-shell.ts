import { setImmediate as nextTurn } from 'node:timers/promises';
import { assert, type PageRange } from '../lib/index.js';
import { discardPages, monotonicUs, type PageFault, Userfaultfd } from '../linux/index.js';
import { QemuError } from './errors.js';
import { type FaultFigures, FaultStatistics } from './fault-statistics.js';
import { TRACK_PART_BYTES } from './limits.js';
import type { FaultBorrower, LentPages, MissingPageFault, MissingPages } from './missing-pages.js';
import { PagePlacer } from './page-placer-shell.js';
import { PageSet } from './page-set.js';

/** Numbers only: descriptors and addresses are good in every thread of the agent. */
export interface MissingPagesHandle {
  /** QEMU's userfaultfd, duplicated; whoever makes a `FaultServer` of it hands it over. */
  readonly userfaultfd: number;
  readonly ramFd: number;
  /** Where guest RAM is in QEMU, and how long. */
  readonly address: number;
  readonly sizeBytes: number;
  readonly vcpuThreads: readonly number[];
}

/** What the emulator does at the two ends. */
export interface MissingPagesHooks {
  /** Before the first page goes: from now on nobody here may touch RAM. */
  readonly begin: () => void;
  /** After the first pages went: what was written so far is forgotten. */
  readonly begun: () => void;
  /** Calls `change`, by which all pages come to count as written. */
  readonly end: (change: () => Promise<void>) => Promise<void>;
}

/** Serves the faults from the event loop of the thread that it was made in, or lends them out. */
export class FaultServer implements MissingPages {
  readonly vcpuThreads: readonly number[];
  readonly #handle: MissingPagesHandle;
  readonly #hooks: MissingPagesHooks;
  readonly #userfaultfd: Userfaultfd;
  readonly #missing: PageSet;
  readonly #placer: PagePlacer;
  readonly #statistics: FaultStatistics;
  #borrower: FaultBorrower | undefined;
  #listener: (fault: MissingPageFault) => void = () => undefined;
  #state: 'new' | 'started' | 'finishing' | 'finished' | 'closed' = 'new';

  constructor(handle: MissingPagesHandle, hooks: MissingPagesHooks) {
    this.#handle = handle;
    this.#hooks = hooks;
    this.vcpuThreads = handle.vcpuThreads;
    this.#userfaultfd = new Userfaultfd(handle.userfaultfd);
    this.#missing = new PageSet(handle.sizeBytes);
    this.#placer = new PagePlacer(this.#userfaultfd, this.#missing, handle.address);
    this.#statistics = new FaultStatistics(handle.vcpuThreads);
  }

  get missingCount(): number {
    return this.#missing.count;
  }

  start(missing: readonly PageRange[]): void {
    this.#checkOpen();
    assert(this.#state === 'new', 'Missing pages were started twice');
    this.#state = 'started';
    this.#hooks.begin();
    const { address, sizeBytes } = this.#handle;
    this.#placer.guarded(() => this.#userfaultfd.catchMissing(address, sizeBytes));
    this.#drop(missing);
    this.#hooks.begun();
    if (this.#borrower === undefined) this.#userfaultfd.onFaults((faults) => this.#hear(faults));
  }

  lend(borrower: FaultBorrower): LentPages {
    this.#checkOpen();
    assert(this.#state === 'new' && this.#borrower === undefined, 'Faults are lent too late');
    this.#borrower = borrower;
    const { userfaultfd, address, sizeBytes, vcpuThreads } = this.#handle;
    return { userfaultfd, address, sizeBytes, vcpuThreads, missing: this.#missing.memory };
  }

  discard(ranges: readonly PageRange[]): void {
    this.#checkStarted();
    this.#drop(ranges);
    const { address } = this.#handle;
    this.#placer.guarded(() => {
      for (const range of ranges) this.#userfaultfd.protect(address + range.offset, range.length);
    });
  }

  onFault(listener: (fault: MissingPageFault) => void): void {
    this.#listener = listener;
  }

  place(offset: number, bytes: Buffer): number {
    this.#checkBegun();
    const placed = this.#placer.place(offset, bytes);
    if (placed > 0) this.#statistics.placed({ offset, length: bytes.length }, monotonicUs());
    return placed;
  }

  placeZero(range: PageRange): void {
    this.#checkBegun();
    assert(this.#borrower === undefined, 'Who waits is known where the faults are');
    this.#missing.delete(range);
    for (const offset of this.#statistics.waitedFor(range)) this.#placer.giveZeroes(offset);
    this.#statistics.placed(range, monotonicUs());
  }

  isMissing(offset: number): boolean {
    return this.#missing.has(offset);
  }

  missingRanges(): PageRange[] {
    return this.#missing.ranges();
  }

  waitedFor(): number[] {
    return this.#statistics.waitedFor({ offset: 0, length: this.#handle.sizeBytes });
  }

  async finish(): Promise<void> {
    this.#checkStarted();
    assert(this.#missing.count === 0, `${this.#missing.count} pages are missing`);
    this.#state = 'finishing';
    await this.#hooks.end(() => this.#trackOnly());
    await this.#borrower?.release();
    this.#checkOpen();
    this.#state = 'finished';
    this.#userfaultfd.close();
  }

  figures(): FaultFigures {
    return this.#borrower?.figures() ?? this.#statistics.figures();
  }

  /**
   * Gives QEMU's userfaultfd back. To be called when QEMU ends and before anybody waits for that
   * end: under KVM a thread of the kernel may wait for a page, and QEMU's end for that thread. Who
   * borrowed it lets go of it meanwhile.
   */
  close(): void {
    if (this.#state === 'finished' || this.#state === 'closed') return;
    this.#state = 'closed';
    if (this.#borrower === undefined) this.#userfaultfd.close();
    // The number is another file's once it is closed: who reads it lets go of it first.
    else void this.#borrower.release().then(() => this.#userfaultfd.close());
  }

  #hear(faults: readonly PageFault[]): void {
    try {
      this.#serve(faults);
    } catch (error) {
      // Whoever waited has ended with QEMU; that it has is told by `Emulator.exited`.
      if (!(error instanceof QemuError)) throw error;
      this.close();
    }
  }

  #serve(faults: readonly PageFault[]): void {
    for (const fault of faults) {
      // A listener may have ended it.
      if (this.#state !== 'started' && this.#state !== 'finishing') return;
      const { write, threadId } = fault;
      const offset = this.#placer.offsetOf(fault);
      if (!this.#missing.has(offset)) {
        this.#placer.giveZeroes(offset);
        continue;
      }
      const atUs = monotonicUs();
      const isFirst = this.#statistics.faulted(offset, threadId, atUs);
      if (isFirst) this.#listener({ offset, write, threadId, atUs });
    }
  }

  /** In parts, as QEMU's threads can't map pages meanwhile; who waits in between is served. */
  async #trackOnly(): Promise<void> {
    const { address, sizeBytes } = this.#handle;
    for (let at = 0; at < sizeBytes; at += TRACK_PART_BYTES) {
      const length = Math.min(TRACK_PART_BYTES, sizeBytes - at);
      this.#placer.guarded(() => this.#userfaultfd.trackOnly(address + at, length));
      await nextTurn();
      this.#checkOpen();
    }
  }

  #drop(ranges: readonly PageRange[]): void {
    for (const range of ranges) {
      this.#missing.add(range);
      discardPages(this.#handle.ramFd, range);
    }
  }

  /** After the end nothing is missing: what comes late is left alone. */
  #checkBegun(): void {
    this.#checkOpen();
    assert(this.#state !== 'new', 'Missing pages have not begun');
  }

  #checkStarted(): void {
    this.#checkOpen();
    assert(this.#state === 'started', `Missing pages are ${this.#state}`);
  }

  #checkOpen(): void {
    if (this.#state === 'closed') throw new QemuError('QEMU has ended, its RAM is gone');
  }
}
