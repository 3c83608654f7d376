/** What FaultServer does, on the fake's buffer: same interface, same rules, no kernel. */
import {
  type FaultFigures,
  FaultStatistics,
  type MissingPageFault,
  type MissingPages,
  PageSet,
} from '../../src/emulator/index.js';
import { assert, PAGE_SIZE_BYTES, type PageRange } from '../../src/lib/index.js';

/** The fake's only vCPU, and the thread that loads device states. */
export const FAKE_VCPU_THREAD = 1001;
export const FAKE_MAIN_THREAD = 1000;

export interface FakeMissingPagesOptions {
  readonly file: Buffer;
  readonly nowUs: () => number;
  readonly checkAlive: () => void;
  /** The guest stands; asked when it begins and when it ends. */
  readonly isPaused: () => boolean;
  /** What was written so far is forgotten, or all pages count as written. */
  readonly setWritten: (written: 'none' | 'all') => void;
}

export class FakeMissingPages implements MissingPages {
  readonly vcpuThreads: readonly number[] = [FAKE_VCPU_THREAD];
  readonly #options: FakeMissingPagesOptions;
  readonly #missing: PageSet;
  readonly #statistics: FaultStatistics;
  #waiters: (() => void)[] = [];
  #listener: (fault: MissingPageFault) => void = () => undefined;
  #state: 'new' | 'started' | 'finished' = 'new';

  constructor(options: FakeMissingPagesOptions) {
    this.#options = options;
    this.#missing = new PageSet(options.file.length);
    this.#statistics = new FaultStatistics(this.vcpuThreads);
  }

  get started(): boolean {
    return this.#state === 'started';
  }

  get missingCount(): number {
    return this.#missing.count;
  }

  start(missing: readonly PageRange[]): void {
    this.#options.checkAlive();
    assert(this.#state === 'new', 'Missing pages were started twice');
    assert(this.#options.isPaused(), 'Missing pages begin in a pause');
    this.#state = 'started';
    this.discard(missing);
    this.#options.setWritten('none');
  }

  discard(ranges: readonly PageRange[]): void {
    this.#checkStarted();
    for (const range of ranges) {
      this.#missing.add(range);
      this.#options.file.fill(0, range.offset, range.offset + range.length);
    }
  }

  lend(): never {
    throw new Error('The faults of a fake have no descriptor');
  }

  onFault(listener: (fault: MissingPageFault) => void): void {
    this.#listener = listener;
  }

  place(offset: number, bytes: Buffer): number {
    this.#checkBegun();
    let placed = 0;
    for (const run of this.#missing.within({ offset, length: bytes.length })) {
      const start = run.offset - offset;
      bytes.copy(this.#options.file, run.offset, start, start + run.length);
      placed += run.length;
    }
    this.#arrived({ offset, length: bytes.length });
    return placed;
  }

  placeZero(range: PageRange): void {
    this.#checkBegun();
    this.#arrived(range);
  }

  isMissing(offset: number): boolean {
    return this.#missing.has(offset);
  }

  missingRanges(): PageRange[] {
    return this.#missing.ranges();
  }

  waitedFor(): number[] {
    return this.#statistics.waitedFor({ offset: 0, length: this.#options.file.length });
  }

  async finish(): Promise<void> {
    this.#checkStarted();
    assert(this.#missing.count === 0, `${this.#missing.count} pages are missing`);
    this.#state = 'finished';
    if (!this.#options.isPaused()) this.#options.setWritten('all');
  }

  figures(): FaultFigures {
    return this.#statistics.figures();
  }

  /** A thread touches the page. False: it has to wait, and touches again later. */
  touch(page: number, threadId: number): boolean {
    const offset = page * PAGE_SIZE_BYTES;
    if (!this.#missing.has(offset)) return true;
    const atUs = this.#options.nowUs();
    const isWaiting = this.waitedFor().includes(offset);
    if (!isWaiting && this.#statistics.faulted(offset, threadId, atUs)) {
      this.#listener({ offset, write: true, threadId, atUs });
    }
    return !this.#missing.has(offset);
  }

  /** The same, and waits until the page is there or the emulator has ended. */
  async untilTouched(page: number): Promise<void> {
    while (!this.touch(page, FAKE_MAIN_THREAD)) {
      await new Promise<void>((resolve) => {
        this.#waiters.push(resolve);
      });
      this.#options.checkAlive();
    }
  }

  /** The emulator has ended: nobody waits any more. */
  close(): void {
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  #arrived(range: PageRange): void {
    this.#missing.delete(range);
    this.#statistics.placed(range, this.#options.nowUs());
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  #checkBegun(): void {
    this.#options.checkAlive();
    assert(this.#state !== 'new', 'Missing pages have not begun');
  }

  #checkStarted(): void {
    this.#options.checkAlive();
    assert(this.#state === 'started', `Missing pages are ${this.#state}`);
  }
}
