/**
 * Guest RAM of which pages are still elsewhere: the destination of a postcopy. Who touches a
 * missing page waits until it has been placed, be it a vCPU or QEMU itself, so that *any* command
 * of the emulator may wait, too: it is served like the guest.
 *
 * The order of a switchover: launched paused with `missingPages`; pages that are sent before go to
 * `ram.writeFile`; `start` with all that the file lacks or has too old; `loadDeviceState`, during
 * which faults are served; then the load's own writes (it resets devices, which may rewrite ROM
 * areas) are taken back: `discard` of the pages of `scanWritten`, as far as the source has data
 * there, and `placeZero` where it has none; `resume`. Pages are placed, demanded and others, until
 * none is missing: `finish`.
 *
 * While it lasts `ram.view` gives nothing and `ram.writeFile` is refused: touching a missing page
 * from here would put zeroes there. A page is placed only where none is, decided by the kernel in
 * one step: what the guest wrote is never overwritten. Placed pages do not count as written, so
 * `scanWritten` gives exactly what was written since `start`.
 */
import type { PageRange } from '../lib/index.js';
import type { FaultFigures } from './fault-statistics.js';

/** Somebody waits for a missing page. */
export interface MissingPageFault {
  /** Of the page in guest RAM. */
  readonly offset: number;
  readonly write: boolean;
  /** Compare with `vcpuThreads`; under KVM it may be a thread of the kernel. */
  readonly threadId: number;
  readonly atUs: number;
}

/**
 * What another thread of this process needs to serve the faults; plain data. The descriptor stays
 * the lender's.
 */
export interface LentPages {
  readonly userfaultfd: number;
  /** Where guest RAM is in QEMU, and how long. */
  readonly address: number;
  readonly sizeBytes: number;
  readonly vcpuThreads: readonly number[];
  /** Of the `PageSet` of missing pages. */
  readonly missing: SharedArrayBuffer;
  /** In a rehearsal: where it is told of faults, in the place of the userfaultfd. */
  readonly faultsFrom?: number;
}

/** Who serves the faults in another thread. */
export interface FaultBorrower {
  /**
   * Resolves once that thread uses the descriptor no more, be it that it has ended. Never rejects.
   * Idempotent.
   */
  release(): Promise<void>;
  figures(): FaultFigures;
}

/** Offsets and lengths are of whole pages inside guest RAM; anything else is a bug. */
export interface MissingPages {
  /** The thread of each vCPU, by its number. */
  readonly vcpuThreads: readonly number[];
  /**
   * Begins, once, with the guest paused: drops what the RAM file has of these pages. What is not
   * among them is as it is in the file, zeroes where it has nothing. What was written so far is
   * forgotten, as by a `scanWritten`.
   */
  start(missing: readonly PageRange[]): void;
  /** Drops further pages, which are missing then and not written. Only before the first `resume`. */
  discard(ranges: readonly PageRange[]): void;
  /**
   * Another thread serves the faults: `onFault` hears of none, and it is there that is known who
   * waits (`waitedFor`, `placeZero`). Before `start`, at which it may begin. Pages may be placed
   * here all the same.
   */
  lend(borrower: FaultBorrower): LentPages;
  /**
   * Called for each missing page that somebody touches, once; what is placed in the call itself is
   * there at once. Set before `start`. Pages known to be zero are given without asking.
   */
  onFault(listener: (fault: MissingPageFault) => void): void;
  /**
   * Places those of these pages that are missing, and lets go on who waits. Gives how many bytes
   * that were; the others are left alone, after the end all of them. Up to 1 MiB is one system
   * call. QemuError when QEMU is gone.
   */
  place(offset: number, bytes: Buffer): number;
  /** The same with zeroes; memory is used only for those that somebody waits for. */
  placeZero(range: PageRange): void;
  isMissing(offset: number): boolean;
  /** All that is missing, ascending and joined: what a source is asked for after a break. */
  missingRanges(): PageRange[];
  /** Number of missing pages. */
  readonly missingCount: number;
  /** Those of them that somebody waits for, by offset: to be asked for first after a break. */
  waitedFor(): number[];
  /**
   * Ends it; nothing may be missing. The guest may run: `scanWritten` then begins anew, so its next
   * result holds perhaps all of RAM. In a pause it stays exact. QemuError when QEMU ends meanwhile.
   */
  finish(): Promise<void>;
  figures(): FaultFigures;
}
