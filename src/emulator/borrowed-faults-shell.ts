import { PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { monotonicUs, type PageFault, Userfaultfd } from '../linux/index.js';
import { QemuError } from './errors.js';
import { type FaultFigures, FaultStatistics } from './fault-statistics.js';
import type { LentPages } from './missing-pages.js';
import { PagePlacer } from './page-placer-shell.js';
import { PageSet } from './page-set.js';

export interface BorrowedFaultsListener {
  /** Somebody waits for the missing page at this offset; once while that is so. */
  readonly onFault: (offset: number) => void;
  /** A wait has ended after so many microseconds. */
  readonly onWaited: (waitUs: number) => void;
}

/**
 * Serves the faults of a `FaultServer` in another thread, whose set of missing pages it shares: the
 * other thread goes on placing pages, too. After QEMU's end it does nothing any more; that it has
 * ended is told by `Emulator.exited`.
 */
export class BorrowedFaults {
  readonly #lent: LentPages;
  readonly #listener: BorrowedFaultsListener;
  readonly #userfaultfd: Userfaultfd;
  readonly #missing: PageSet;
  readonly #placer: PagePlacer;
  readonly #statistics: FaultStatistics;
  #closed = false;

  constructor(lent: LentPages, listener: BorrowedFaultsListener) {
    this.#lent = lent;
    this.#listener = listener;
    const { userfaultfd, faultsFrom } = lent;
    this.#userfaultfd = new Userfaultfd(userfaultfd, { owned: false, faultsFrom });
    this.#missing = new PageSet(lent.sizeBytes, lent.missing);
    this.#placer = new PagePlacer(this.#userfaultfd, this.#missing, lent.address);
    this.#statistics = new FaultStatistics(lent.vcpuThreads);
  }

  /** After `FaultServer.start`. */
  serve(): void {
    if (this.#closed) return;
    this.#userfaultfd.onFaults((faults) => {
      this.#whileItRuns(() => this.#serve(faults));
    });
  }

  isMissing(offset: number): boolean {
    return this.#missing.has(offset);
  }

  /** Pages have come that somebody may wait for. */
  place(offset: number, bytes: Buffer): void {
    const range = { offset, length: bytes.length };
    this.#whileItRuns(() => {
      if (this.#placer.place(offset, bytes) === bytes.length) return;
      // Where another thread has placed some meanwhile.
      for (const page of this.#statistics.waitedFor(range)) this.#placer.wake(page);
    });
    this.#waited(range);
  }

  /** The same of pages that the other thread places. */
  passedOn(range: PageRange): void {
    this.#waited(range);
  }

  /** Offsets of the pages that are waited for; those that came otherwise are not any more. */
  waitedFor(): number[] {
    const all = this.#statistics.waitedFor({ offset: 0, length: this.#lent.sizeBytes });
    const here = all.filter((offset) => !this.#missing.has(offset));
    for (const offset of here) this.#waited({ offset, length: PAGE_SIZE_BYTES });
    return all.filter((offset) => !here.includes(offset));
  }

  figures(): FaultFigures {
    return this.#statistics.figures();
  }

  /** The descriptor is not used any more. Idempotent. */
  close(): void {
    this.#closed = true;
    this.#userfaultfd.close();
  }

  #serve(faults: readonly PageFault[]): void {
    for (const fault of faults) {
      const offset = this.#placer.offsetOf(fault);
      if (!this.#missing.has(offset)) this.#placer.giveZeroes(offset);
      else if (this.#statistics.faulted(offset, fault.threadId, monotonicUs())) {
        this.#listener.onFault(offset);
      }
    }
  }

  #waited(range: PageRange): void {
    for (const waitUs of this.#statistics.placed(range, monotonicUs())) {
      this.#listener.onWaited(waitUs);
    }
  }

  /** Whoever waited for a page has ended with QEMU. */
  #whileItRuns(step: () => void): void {
    if (this.#closed) return;
    try {
      step();
    } catch (error) {
      if (!(error instanceof QemuError)) throw error;
      this.close();
    }
  }
}
