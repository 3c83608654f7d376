/**
 * One guest on one host, with exactly the abilities that the rest of the project is built on.
 * The real thing is `launchQemu`; the simulation has its own, test/support/fake-emulator.ts; both
 * pass test/compliance/emulator-suite.ts.
 *
 * The order of one checkpoint on the PVM: `pause` and `saveDeviceState` (no need to await the one
 * before calling the other, QEMU takes them in order), then `scanWritten` and copying, `resume`.
 * On the SVM: `pause`, `scanPrivate`, `ram.writeFile` of the PVM's pages, `dropPrivate`,
 * `loadDeviceState`, and, as the load resets devices and so rewrites ROM areas in guest RAM, again
 * `scanPrivate` and `dropPrivate`, then `resume`.
 */
import type { PageRange } from '../lib/index.js';
import type { GuestEvent } from './guest-event.js';
import type { MissingPages } from './missing-pages.js';

export type Accelerator = 'kvm' | 'tcg';
export type DirtyTrackerKind = 'userfaultfd' | 'soft-dirty' | 'compare';

export interface EmulatorDescription {
  readonly qemuVersion: string;
  readonly machineType: string;
  readonly accelerator: Accelerator;
  readonly dirtyTracker: DirtyTrackerKind;
  readonly pid: number;
}

/** Where another thread of this process reads what the guest sees; plain data. See `RamReader`. */
export interface RamHandle {
  /** Good until the emulator is killed. */
  readonly fd: number;
  /** Where guest RAM begins in that file, bytes. */
  readonly at: number;
  readonly sizeBytes: number;
}

/** Guest RAM as one array of bytes; offsets are into the RAMBlock, not guest-physical addresses. */
export interface GuestRam {
  readonly sizeBytes: number;
  /** For a thread that reads what the guest sees. */
  readonly handle: RamHandle;
  /** What the guest sees. */
  copyOut(offset: number, target: Buffer): void;
  /**
   * Writes into the RAM file, which on a private mapping is the RAM cache and is hidden wherever
   * the guest has its own copy. Never counted as a write of the guest, except by the compare
   * tracker. TCG keeps running code that it has translated from a page before it was rewritten:
   * code must not be changed without a `loadDeviceState` before the next `resume`.
   */
  writeFile(offset: number, bytes: Buffer): void;
  /** Fills `target` from the RAM file, which on a private mapping is the RAM cache. */
  readFile(offset: number, target: Buffer): void;
  /**
   * The RAM itself, no copy: changes as the guest runs. Undefined on a private mapping, and where
   * the range crosses a multiple of 1 GiB, and while pages are missing; use `copyOut` then.
   */
  view(offset: number, length: number): Buffer | undefined;
  /** All that may be other than zero, ascending: where a full synchronisation begins. */
  dataRanges(): PageRange[];
}

/** `advanceUs`: the guest's clock is set forward by so much; where it can be (TCG). */
export interface LoadOptions {
  readonly advanceUs: number;
}

export interface Emulator {
  readonly description: EmulatorDescription;
  readonly ram: GuestRam;
  /** Of an emulator that was launched for it: a postcopy may end here. */
  readonly missingPages: MissingPages | undefined;
  /** Stops the vCPUs and waits until every disk request is done. Idempotent. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /**
   * Pages that may have been written since the last call, ascending, joined. The first call gives
   * at least all touched so far, perhaps all of RAM: a full synchronisation calls it once, ignores
   * the result, and then sends `ram.dataRanges`. While the guest runs only the userfaultfd tracker
   * finds anything: the others give nothing then and everything at the next call in a pause. Throws
   * QemuError when QEMU is gone.
   */
  scanWritten(): PageRange[];
  /** The devices' state, loadable by an emulator of the same definition. Only while paused. */
  saveDeviceState(): Promise<Buffer>;
  /**
   * Whether the next load resets the devices first, which writes ROM contents into guest RAM. It
   * does not where a guest comes once (`LaunchOptions.incoming`); until then it can't be saved, nor
   * resumed.
   */
  readonly loadResets: boolean;
  /**
   * Loads the state; all devices are as it says. Only while paused; repeatable. QemuError when QEMU
   * refuses it: the devices are then in no usable state until another load succeeds. Without
   * `loadResets` QEMU ends instead.
   */
  loadDeviceState(state: Buffer, options?: LoadOptions): Promise<void>;
  /** On a private mapping: pages of which the guest has its own copy. Else none. */
  scanPrivate(): PageRange[];
  /** Drops those copies, so that the guest sees the RAM file again. Only while paused. */
  dropPrivate(ranges: readonly PageRange[]): Promise<void>;
  /**
   * On a private mapping, for a guest that goes on for good: frees what the RAM file has of `part`
   * under the guest's own copies, which nobody will see again, and gives how many bytes.
   * `dropPrivate` is wrong from then on. Undefined on a shared mapping, where nothing is hidden.
   */
  releaseHidden(part: PageRange): number | undefined;
  /** The machine's reset button; a guest that has powered off is started again. It stays paused. */
  reset(): Promise<void>;
  /**
   * For a source whose guest runs elsewhere by now: frees pages that the other side has. Only while
   * paused; `resume` is refused from then on, and they read as zeroes.
   */
  releasePages(ranges: readonly PageRange[]): Promise<void>;
  /**
   * Lets the guest run only for the rest of the time, so that it writes less than is sent: `percent`
   * from 0 (no throttle) to 99. Its clock goes on. Holds across `pause` and `resume`, which are as
   * quick as ever; other commands may wait until the guest runs again, 1 s at 99.
   */
  setThrottle(percent: number): void;
  /**
   * Makes the guest's NICs announce themselves (gratuitous packets of QEMU, no guest driver
   * needed).
   */
  announce(): Promise<void>;
  /** Resolves once, when QEMU has ended by itself or by `kill`. */
  readonly exited: Promise<ExitReason>;
  onGuestEvent(listener: (event: GuestEvent) => void): void;
  /** Ends QEMU at once, as a crash would: `exited` tells, and everything is still to be released. */
  abort(): void;
  /** Ends the guest at once and releases everything. Idempotent. */
  kill(): Promise<void>;
  /**
   * Ends the guest as `kill` does, but its RAM file stays, and is the caller's. `guest`: with all
   * that the guest saw, if it can still be asked; `file`: as it is, of an SVM the RAM cache.
   * Undefined: the guest was killed before.
   */
  endKeepingRam(what: 'guest' | 'file'): Promise<LeftRam | undefined>;
}

/**
 * The RAM of a guest that has ended, in memory: to be launched with once more, or closed. Nobody
 * else writes it.
 */
export interface LeftRam {
  readonly sizeBytes: number;
  /** All that may be other than zero, ascending: what it takes of the host's memory. */
  dataRanges(): PageRange[];
  close(): void;
}

export interface ExitReason {
  readonly reason: string;
}
