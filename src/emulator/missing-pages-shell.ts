import { setImmediate as nextTurn } from 'node:timers/promises';
import { assert, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import {
  discardPages,
  monotonicUs,
  type PageFault,
  SystemCallError,
  Userfaultfd,
} from '../linux/index.js';
import { QemuError } from './errors.js';
import { type FaultFigures, FaultStatistics } from './fault-statistics.js';
import { TRACK_PART_BYTES } from './limits.js';
import type { MissingPageFault, MissingPages } from './missing-pages.js';
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

/** No such process: its memory is gone. */
const ESRCH = 3;

/** Serves the faults from the event loop of the thread that it was made in. */
export class FaultServer implements MissingPages {
  readonly vcpuThreads: readonly number[];
  readonly #handle: MissingPagesHandle;
  readonly #hooks: MissingPagesHooks;
  readonly #userfaultfd: Userfaultfd;
  readonly #missing: PageSet;
  readonly #statistics: FaultStatistics;
  #listener: (fault: MissingPageFault) => void = () => undefined;
  #state: 'new' | 'started' | 'finishing' | 'finished' | 'closed' = 'new';

  constructor(handle: MissingPagesHandle, hooks: MissingPagesHooks) {
    this.#handle = handle;
    this.#hooks = hooks;
    this.vcpuThreads = handle.vcpuThreads;
    this.#userfaultfd = new Userfaultfd(handle.userfaultfd);
    this.#missing = new PageSet(handle.sizeBytes);
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
    this.#guarded(() => this.#userfaultfd.catchMissing(address, sizeBytes));
    this.#drop(missing);
    this.#hooks.begun();
    this.#userfaultfd.onFaults((faults) => this.#hear(faults));
  }

  discard(ranges: readonly PageRange[]): void {
    this.#checkStarted();
    this.#drop(ranges);
    const { address } = this.#handle;
    this.#guarded(() => {
      for (const range of ranges) this.#userfaultfd.protect(address + range.offset, range.length);
    });
  }

  onFault(listener: (fault: MissingPageFault) => void): void {
    this.#listener = listener;
  }

  place(offset: number, bytes: Buffer): number {
    this.#checkBegun();
    let placed = 0;
    for (const run of this.#missing.within({ offset, length: bytes.length })) {
      const start = run.offset - offset;
      placed += this.#placeRun(run, bytes.subarray(start, start + run.length));
    }
    return placed;
  }

  placeZero(range: PageRange): void {
    this.#checkBegun();
    this.#missing.delete(range);
    for (const offset of this.#statistics.waitedFor(range)) this.#giveZeroes(offset);
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
    this.#checkOpen();
    this.#state = 'finished';
    this.#userfaultfd.close();
  }

  figures(): FaultFigures {
    return this.#statistics.figures();
  }

  /**
   * Gives QEMU's userfaultfd back. To be called when QEMU ends and before anybody waits for that
   * end: under KVM a thread of the kernel may wait for a page, and QEMU's end for that thread.
   */
  close(): void {
    if (this.#state === 'finished' || this.#state === 'closed') return;
    this.#state = 'closed';
    this.#userfaultfd.close();
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
    for (const { address, write, threadId } of faults) {
      // A listener may have ended it.
      if (this.#state !== 'started' && this.#state !== 'finishing') return;
      const offset = address - this.#handle.address;
      if (!this.#missing.has(offset)) {
        this.#giveZeroes(offset);
        continue;
      }
      const atUs = monotonicUs();
      const isFirst = this.#statistics.faulted(offset, threadId, atUs);
      if (isFirst) this.#listener({ offset, write, threadId, atUs });
    }
  }

  /** Zeroes for whoever waits, unless the page has come since. */
  #giveZeroes(offset: number): void {
    const address = this.#handle.address + offset;
    this.#guarded(() => {
      if (!this.#userfaultfd.placeZero(address)) this.#userfaultfd.wake(address, PAGE_SIZE_BYTES);
    });
  }

  /** All of them are missing. Gives the number of bytes placed. */
  #placeRun(run: PageRange, bytes: Buffer): number {
    const address = this.#handle.address + run.offset;
    let placed = 0;
    this.#guarded(() => {
      for (let at = 0; at < bytes.length; ) {
        const count = this.#userfaultfd.place(address + at, bytes.subarray(at));
        placed += count;
        at += count;
        if (at === bytes.length) break;
        // Somebody else put that page there; who came to wait for it before may still do.
        this.#userfaultfd.wake(address + at, PAGE_SIZE_BYTES);
        at += PAGE_SIZE_BYTES;
      }
    });
    this.#missing.delete(run);
    this.#statistics.placed(run, monotonicUs());
    return placed;
  }

  /** In parts, as QEMU's threads can't map pages meanwhile; who waits in between is served. */
  async #trackOnly(): Promise<void> {
    const { address, sizeBytes } = this.#handle;
    for (let at = 0; at < sizeBytes; at += TRACK_PART_BYTES) {
      const length = Math.min(TRACK_PART_BYTES, sizeBytes - at);
      this.#guarded(() => this.#userfaultfd.trackOnly(address + at, length));
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

  #guarded(call: () => void): void {
    try {
      call();
    } catch (cause) {
      if (cause instanceof SystemCallError && cause.errno === ESRCH) {
        throw new QemuError('QEMU has ended, its RAM is gone', { cause });
      }
      throw cause;
    }
  }
}
