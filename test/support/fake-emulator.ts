/**
 * The Emulator without QEMU, for the simulation and for tests of those who drive one: RAM is a few
 * pages, the "guest" a counter and a random number generator, and everything is a function of the
 * seed and of the calls made. It keeps the same layout as test/support/boot-sector-guest.ts, so
 * that both pass the same compliance suite.
 *
 * The guest runs only in `step`. Two fakes with the same RAM and device state that take the same
 * steps stay equal; `diverge` makes one of them go another way.
 */
import {
  type Emulator,
  type EmulatorDescription,
  type ExitReason,
  type GuestEvent,
  type GuestRam,
  type LeftRam,
  QemuError,
} from '../../src/emulator/index.js';
import {
  appendRange,
  assert,
  crc32c,
  PAGE_SIZE_BYTES,
  type PageRange,
} from '../../src/lib/index.js';
import { COUNTERS_OFFSET } from './boot-sector-guest.js';
import { FAKE_VCPU_THREAD, FakeMissingPages } from './fake-missing-pages.js';

export interface FakeEmulatorOptions {
  readonly pages: number;
  readonly seed: number;
  readonly ramMapping: 'shared' | 'private';
  readonly startPaused: boolean;
  /** A postcopy may end here; its times are those of `nowUs`. */
  readonly missingPages?: boolean;
  /** Of a fake. */
  readonly leftRam?: LeftRam;
  readonly nowUs?: () => number;
  /** Awaited inside every asynchronous operation, before it takes effect: where time passes. */
  readonly gate?: (operation: FakeOperation) => Promise<void>;
}

export type FakeOperation =
  | 'pause'
  | 'resume'
  | 'saveDeviceState'
  | 'loadDeviceState'
  | 'dropPrivate'
  | 'reset'
  | 'releasePages'
  | 'announce';

const STATE_MAGIC = 0x46414b45; // 'FAKE'
const STATE_BYTES = 16;
/** Where QEMU would put ROM areas back when devices are reset: the last page. */
const ROM_BYTE = 0x5a;
/** Writes of one step. */
const WRITES_PER_STEP = 8;

class FakeLeftRam implements LeftRam {
  readonly file: Buffer;

  constructor(file: Buffer) {
    this.file = file;
  }

  get sizeBytes(): number {
    return this.file.length;
  }

  dataRanges(): PageRange[] {
    return [{ offset: 0, length: this.file.length }];
  }

  close(): void {}
}

export class FakeEmulator implements Emulator {
  readonly description: EmulatorDescription = {
    qemuVersion: '0.0.0',
    machineType: 'fake',
    accelerator: 'tcg',
    dirtyTracker: 'userfaultfd',
    pid: 0,
  };
  readonly ram: GuestRam;
  readonly missingPages: FakeMissingPages | undefined;
  readonly exited: Promise<ExitReason>;
  readonly loadResets = true;
  /** How often `announce` was called. */
  announcements = 0;
  readonly #options: FakeEmulatorOptions;
  readonly #file: Buffer;
  /** Private copies by page number. */
  readonly #copies = new Map<number, Buffer>();
  readonly #written = new Set<number>();
  readonly #listeners: ((event: GuestEvent) => void)[] = [];
  readonly #failures = new Map<FakeOperation, Error>();
  #resolveExit: (reason: ExitReason) => void = () => undefined;
  #gone: string | undefined;
  #running: boolean;
  // The "registers": what only the device state holds.
  #count = 0;
  #random: number;
  /** No usable devices, after a load that failed. */
  #torn = false;
  #released = false;
  #throttlePercent = 0;
  /** Steps are not made until it is 100. */
  #throttleCredit = 0;

  constructor(options: FakeEmulatorOptions) {
    this.#options = options;
    this.#random = options.seed >>> 0;
    this.#running = !options.startPaused;
    const { leftRam } = options;
    const isFakes = leftRam instanceof FakeLeftRam;
    this.#file = isFakes ? leftRam.file : Buffer.alloc(options.pages * PAGE_SIZE_BYTES);
    for (let page = 0; page < options.pages; page++) this.#written.add(page);
    this.exited = new Promise((resolve) => {
      this.#resolveExit = resolve;
    });
    this.ram = this.#makeRam();
    if (options.missingPages ?? false) this.missingPages = this.#makeMissingPages();
    this.#pageForWrite(this.#romPage).fill(ROM_BYTE, 0, 16);
  }

  get running(): boolean {
    return this.#running && this.#gone === undefined;
  }

  get #romPage(): number {
    return this.#options.pages - 1;
  }

  /** Lets the guest run a little, if it runs and waits for no page. */
  step(): void {
    if (!this.running) return;
    this.#throttleCredit += 100 - this.#throttlePercent;
    if (this.#throttleCredit < 100) return;
    this.#throttleCredit -= 100;
    for (let i = 0; i < WRITES_PER_STEP; i++) {
      const random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0;
      // Page 0 has the counters, the last page is ROM.
      const page = 1 + ((random >>> 8) % (this.#options.pages - 2));
      for (const needed of [page, 0]) {
        if (!(this.missingPages?.touch(needed, FAKE_VCPU_THREAD) ?? true)) return;
      }
      this.#count = (this.#count + 1) >>> 0;
      this.#random = random;
      this.#write(page * PAGE_SIZE_BYTES + ((this.#random >>> 4) & 0xff8), this.#count);
      this.#write(COUNTERS_OFFSET, this.#count);
      this.#write(COUNTERS_OFFSET + 4, this.#count);
    }
  }

  /** The guest sees something that its twin does not (a clock, say) and goes another way. */
  diverge(value: number): void {
    this.#random = (this.#random ^ value) >>> 0;
  }

  /** QEMU dies. */
  crash(reason: string): void {
    if (this.#gone !== undefined) return;
    this.#gone = reason;
    this.missingPages?.close();
    this.#resolveExit({ reason });
  }

  /** The next call of `operation` rejects with `error` instead of having an effect. */
  failNext(operation: FakeOperation, error: Error): void {
    this.#failures.set(operation, error);
  }

  emit(event: GuestEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  async pause(): Promise<void> {
    await this.#begin('pause');
    this.#running = false;
  }

  async resume(): Promise<void> {
    await this.#begin('resume');
    if (this.#torn) throw new QemuError('The devices are in no usable state');
    if (this.#released) throw new QemuError('Pages of the guest were released');
    this.#running = true;
  }

  scanWritten(): PageRange[] {
    this.#checkAlive();
    const ranges = toRanges(this.#written);
    this.#written.clear();
    return ranges;
  }

  async saveDeviceState(): Promise<Buffer> {
    await this.#begin('saveDeviceState');
    assert(!this.#running, 'Device state is saved in a pause');
    const state = Buffer.alloc(STATE_BYTES);
    state.writeUInt32BE(STATE_MAGIC, 0);
    state.writeUInt32BE(this.#count, 4);
    state.writeUInt32BE(this.#random, 8);
    state.writeUInt32BE(crc32c(state.subarray(0, 12)), 12);
    return state;
  }

  async loadDeviceState(state: Buffer): Promise<void> {
    await this.#begin('loadDeviceState');
    assert(!this.#running, 'Device state is loaded in a pause');
    await this.#resetDevices();
    this.#torn =
      state.length !== STATE_BYTES ||
      state.readUInt32BE(0) !== STATE_MAGIC ||
      state.readUInt32BE(12) !== crc32c(state.subarray(0, 12));
    if (this.#torn) throw new QemuError(`A device state of ${state.length} bytes is malformed`);
    this.#count = state.readUInt32BE(4);
    this.#random = state.readUInt32BE(8);
  }

  async reset(): Promise<void> {
    await this.#begin('reset');
    await this.#resetDevices();
    this.emit({ kind: 'reset', byGuest: false, reason: 'host-qmp-system-reset' });
  }

  scanPrivate(): PageRange[] {
    this.#checkAlive();
    return toRanges(new Set(this.#copies.keys()));
  }

  async dropPrivate(ranges: readonly PageRange[]): Promise<void> {
    await this.#begin('dropPrivate');
    assert(!this.#running, 'Private pages are dropped in a pause');
    for (const range of ranges) {
      for (let at = 0; at < range.length; at += PAGE_SIZE_BYTES) {
        this.#copies.delete((range.offset + at) / PAGE_SIZE_BYTES);
      }
    }
  }

  releaseHidden({ offset, length }: PageRange): number | undefined {
    this.#checkAlive();
    if (this.#options.ramMapping === 'shared') return undefined;
    let bytes = 0;
    for (const [page] of this.#copies) {
      const at = page * PAGE_SIZE_BYTES;
      if (at < offset || at >= offset + length) continue;
      this.#file.fill(0, at, at + PAGE_SIZE_BYTES);
      bytes += PAGE_SIZE_BYTES;
    }
    return bytes;
  }

  async releasePages(ranges: readonly PageRange[]): Promise<void> {
    await this.#begin('releasePages');
    assert(!this.#running, 'Pages are released in a pause');
    this.#released = true;
    for (const { offset, length } of ranges) {
      this.#file.fill(0, offset, offset + length);
      for (let at = 0; at < length; at += PAGE_SIZE_BYTES) {
        this.#copies.delete((offset + at) / PAGE_SIZE_BYTES);
      }
    }
  }

  setThrottle(percent: number): void {
    assert(percent >= 0 && percent <= 99, `A throttle of ${percent} %`);
    this.#throttlePercent = percent;
  }

  async announce(): Promise<void> {
    await this.#begin('announce');
    this.announcements++;
  }

  onGuestEvent(listener: (event: GuestEvent) => void): void {
    this.#listeners.push(listener);
  }

  abort(): void {
    this.crash('The guest was aborted');
  }

  async kill(): Promise<void> {
    this.crash('The guest was killed');
  }

  async endKeepingRam(what: 'guest' | 'file'): Promise<LeftRam | undefined> {
    if (this.#gone === 'The guest was killed') return undefined;
    if (what === 'guest' && this.#gone === undefined) {
      for (const [page, copy] of this.#copies) copy.copy(this.#file, page * PAGE_SIZE_BYTES);
    }
    await this.kill();
    return new FakeLeftRam(this.#file);
  }

  async #begin(operation: FakeOperation): Promise<void> {
    await this.#options.gate?.(operation);
    this.#checkAlive();
    const failure = this.#failures.get(operation);
    this.#failures.delete(operation);
    if (failure !== undefined) throw failure;
  }

  #checkAlive(): void {
    if (this.#gone !== undefined) throw new QemuError(this.#gone);
  }

  async #resetDevices(): Promise<void> {
    await this.missingPages?.untilTouched(this.#romPage);
    this.#pageForWrite(this.#romPage).fill(ROM_BYTE, 0, 16);
  }

  #makeMissingPages(): FakeMissingPages {
    const { ramMapping, pages, nowUs } = this.#options;
    assert(ramMapping === 'shared', 'Missing pages need shared RAM');
    return new FakeMissingPages({
      file: this.#file,
      nowUs: nowUs ?? (() => 0),
      checkAlive: () => this.#checkAlive(),
      isPaused: () => !this.#running,
      setWritten: (written) => {
        this.#written.clear();
        for (let page = 0; written === 'all' && page < pages; page++) this.#written.add(page);
      },
    });
  }

  #write(offset: number, value: number): void {
    const page = Math.floor(offset / PAGE_SIZE_BYTES);
    this.#pageForWrite(page).writeUInt32LE(value, offset % PAGE_SIZE_BYTES);
  }

  #pageForWrite(page: number): Buffer {
    this.#written.add(page);
    const inFile = this.#file.subarray(page * PAGE_SIZE_BYTES, (page + 1) * PAGE_SIZE_BYTES);
    if (this.#options.ramMapping === 'shared') return inFile;
    let copy = this.#copies.get(page);
    if (copy === undefined) {
      copy = Buffer.from(inFile);
      this.#copies.set(page, copy);
    }
    return copy;
  }

  #makeRam(): GuestRam {
    const file = this.#file;
    const shared = this.#options.ramMapping === 'shared';
    const missing = (): boolean => this.missingPages?.started ?? false;
    return {
      sizeBytes: file.length,
      get handle(): never {
        throw new Error('The RAM of a fake is no file');
      },
      copyOut: (offset, target) => {
        this.#checkAlive();
        file.copy(target, 0, offset, offset + target.length);
        for (const [page, copy] of this.#copies) {
          const start = page * PAGE_SIZE_BYTES - offset;
          if (start > -PAGE_SIZE_BYTES && start < target.length) {
            copy.copy(target, Math.max(start, 0), Math.max(-start, 0));
          }
        }
      },
      writeFile: (offset, bytes) => {
        this.#checkAlive();
        assert(offset + bytes.length <= file.length, `${offset}+${bytes.length} exceeds guest RAM`);
        assert(!missing(), 'The RAM file was written while pages were missing');
        bytes.copy(file, offset);
      },
      readFile: (offset, target) => {
        file.copy(target, 0, offset, offset + target.length);
      },
      view: (offset, length) =>
        shared && !missing() ? file.subarray(offset, offset + length) : undefined,
      dataRanges: () => [{ offset: 0, length: file.length }],
    };
  }
}

function toRanges(pages: ReadonlySet<number>): PageRange[] {
  const ranges: PageRange[] = [];
  for (const page of [...pages].sort((a, b) => a - b)) {
    appendRange(ranges, { offset: page * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES });
  }
  return ranges;
}
