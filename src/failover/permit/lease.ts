/**
 * How long a right to speak lasts, and what a lease is to the thread that writes to the TAP.
 *
 * Who gives a right away for a duration waits that long *after* it gave it. Who has it counts from
 * *before* it asked, and a little less. So it is over on the side that has it before it is over on
 * the side that gave it, whatever the messages between took, and although the clocks drift.
 */
import { OutputDeadline } from '../../linux/index.js';
import { CLOCK_DRIFT_PART, LEASE_MARGIN_US, UNLIMITED_US } from '../limits.js';

/** What may be used of a right that its giver waits `durationUs` for, from before it was asked. */
export function leaseUs(durationUs: number): number {
  return Math.max(0, Math.floor(durationUs * (1 - CLOCK_DRIFT_PART) - LEASE_MARGIN_US));
}

/** Words of the shared memory: the lease's end, and how often it was armed. */
const UNTIL = 0;
const ARMED = 1;

/** Where a lease lives; to be handed to both threads. */
export interface LeaseMemory {
  readonly words: SharedArrayBuffer;
  /**
   * Of an `OutputDeadline` of src/linux, which lasts as long as the lease: the kernel looks, too.
   * Undefined where it can't.
   */
  readonly deadlineFd: number | undefined;
}

export function createLeaseMemory(deadlineFd?: number): LeaseMemory {
  return { words: new SharedArrayBuffer(2 * BigInt64Array.BYTES_PER_ELEMENT), deadlineFd };
}

/**
 * The side that decides. Nothing is sent before the first `arm`, nor after a lapse that the other
 * side has noticed, until the next `arm`.
 */
export class LeaseWriter {
  readonly #words: BigInt64Array;
  readonly #deadline: OutputDeadline | undefined;

  constructor({ words, deadlineFd }: LeaseMemory) {
    this.#words = new BigInt64Array(words);
    this.#deadline = deadlineFd === undefined ? undefined : OutputDeadline.ofFd(deadlineFd);
  }

  /** The right begins, or begins again; `untilUs` in time of CLOCK_BOOTTIME. */
  arm(untilUs: number): void {
    this.extend(untilUs);
    Atomics.add(this.#words, ARMED, 1n);
  }

  /** Moves the end, in either direction. */
  extend(untilUs: number): void {
    Atomics.store(this.#words, UNTIL, BigInt(untilUs));
    this.#deadline?.set(untilUs);
  }

  /** At once: whatever the other side writes next is not written. */
  revoke(): void {
    this.extend(0);
  }

  /** Without a witness: no end. */
  armForEver(): void {
    this.arm(UNLIMITED_US);
  }
}

/**
 * The side that writes frames; one for each TAP. Once it has found the lease over it stays shut,
 * though the lease be extended later, until somebody arms it again: what was dropped in between
 * is lost, and only who decides knows whether to go on.
 */
export class OutputLease {
  readonly #words: BigInt64Array;
  /** Of which arming it is known that it has lapsed. */
  #lapsed = 0n;

  constructor({ words }: LeaseMemory) {
    this.#words = new BigInt64Array(words);
  }

  /** Ask right before writing; `nowUs` of CLOCK_BOOTTIME, read right before asking. */
  allows(nowUs: number): boolean {
    const armed = Atomics.load(this.#words, ARMED);
    if (armed === this.#lapsed) return false;
    if (nowUs < Number(Atomics.load(this.#words, UNTIL))) return true;
    this.#lapsed = armed;
    return false;
  }
}
