import { assert, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';
import { type PageFault, SystemCallError, type Userfaultfd } from '../linux/index.js';
import { QemuError } from './errors.js';
import type { PageSet } from './page-set.js';

/** No such process: its memory is gone. */
const ESRCH = 3;
/** No faults are caught there. */
const ENOENT = 2;

/**
 * Puts pages into a QEMU that lacks them. Several threads may do so at once, each with one of its
 * own: the kernel places a page only where none is, and the set of missing pages is shared.
 */
export class PagePlacer {
  readonly #userfaultfd: Userfaultfd;
  readonly #missing: PageSet;
  readonly #address: number;

  /** `address`: of guest RAM in QEMU. */
  constructor(userfaultfd: Userfaultfd, missing: PageSet, address: number) {
    this.#userfaultfd = userfaultfd;
    this.#missing = missing;
    this.#address = address;
  }

  /** Where in guest RAM. */
  offsetOf({ address }: PageFault): number {
    return address - this.#address;
  }

  /**
   * Places those of these pages that are missing. Gives how many bytes that were. QemuError when
   * QEMU is gone.
   */
  place(offset: number, bytes: Buffer): number {
    let placed = 0;
    for (const run of this.#missing.within({ offset, length: bytes.length })) {
      const start = run.offset - offset;
      placed += this.#placeRun(run, bytes.subarray(start, start + run.length));
      // Not before: a page that is not missing and not there is one of zeroes.
      this.#missing.delete(run);
    }
    return placed;
  }

  /** Zeroes for whoever waits, unless the page has come since. */
  giveZeroes(offset: number): void {
    try {
      this.guarded(() => {
        if (!this.#userfaultfd.placeZero(this.#address + offset)) this.wake(offset);
      });
    } catch (error) {
      // Another thread has ended the faults there since, which let go on who waited.
      if (!(error instanceof SystemCallError) || error.errno !== ENOENT) throw error;
    }
  }

  /** Who waits for the page looks again. */
  wake(offset: number): void {
    this.guarded(() => this.#userfaultfd.wake(this.#address + offset, PAGE_SIZE_BYTES));
  }

  /** Throws QemuError for what a system call says of a QEMU that has ended. */
  guarded(call: () => void): void {
    try {
      call();
    } catch (cause) {
      if (cause instanceof SystemCallError && cause.errno === ESRCH) {
        throw new QemuError('QEMU has ended, its RAM is gone', { cause });
      }
      throw cause;
    }
  }

  #placeRun(run: PageRange, bytes: Buffer): number {
    assert(run.length === bytes.length, 'A run of pages and its bytes');
    const address = this.#address + run.offset;
    let placed = 0;
    this.guarded(() => {
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
    return placed;
  }
}
