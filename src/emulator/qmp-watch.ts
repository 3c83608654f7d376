/**
 * When a QEMU that is silent on QMP counts as hung: a process that was stopped, or a main loop that
 * waits for something that does not come. Its guest may even run on, but no checkpoint of it can be
 * taken any more.
 *
 * In: ticks, each with whether QEMU said anything since the last one, and whether it owes an
 * answer. Out: what is to be done. A QEMU that owes nothing is asked something, so that each
 * silence means something.
 *
 * A process that was stopped does not go on by itself. Any other may be short of CPU, or wait for a
 * slow disk, and gets more time.
 *
 * Silence is measured in time that this process was awake, as that of a peer is
 * (failover/failure-detector.ts): a tick counts for at most two intervals. It is rounded up to a
 * tick.
 */

/** Ticks in the time after which a QEMU that was stopped is hung. */
const TICKS = 10;
/** So many times as long for one that was not. */
const PATIENCE = 6;

export interface QmpTick {
  readonly nowUs: number;
  /** Anything came since the last tick: an answer, an event, a part of one. */
  readonly heard: boolean;
  /** A command is under way. */
  readonly waiting: boolean;
  /** Whether QEMU's process was stopped; asked only of one that is silent. */
  readonly isStopped: () => boolean;
}

export class QmpWatch {
  readonly tickUs: number;
  readonly #hungAfterUs: number;
  #silentUs = 0;
  #judgedUs = 0;
  #tickedAtUs: number | undefined;

  constructor(options: { hungAfterUs: number }) {
    this.#hungAfterUs = options.hungAfterUs;
    this.tickUs = options.hungAfterUs / TICKS;
  }

  get silentUs(): number {
    return this.#silentUs;
  }

  /** `hung` comes again for each `hungAfterUs` of silence. */
  tick({ nowUs, heard, waiting, isStopped }: QmpTick): 'ask' | 'hung' | undefined {
    const passedUs = Math.min(nowUs - (this.#tickedAtUs ?? nowUs), 2 * this.tickUs);
    this.#tickedAtUs = nowUs;
    if (heard || !waiting) {
      this.#silentUs = 0;
      this.#judgedUs = 0;
      return waiting ? undefined : 'ask';
    }
    this.#silentUs += passedUs;
    if (this.#silentUs < this.#judgedUs + this.#hungAfterUs) return undefined;
    this.#judgedUs = this.#silentUs;
    const isPast = this.#silentUs >= PATIENCE * this.#hungAfterUs;
    return isPast || isStopped() ? 'hung' : undefined;
  }
}
