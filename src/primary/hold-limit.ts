/**
 * How long clients wait for a secondary that lives and does not follow, and how long such a one is
 * left alone then.
 *
 * The guest's own pause does not count: a QEMU that hangs in it is no fault of the secondary, which
 * must be there to go on from the last checkpoint. Neither does a time in which this process did
 * not run: what waits in its sockets is read before it judges.
 *
 * In: when a checkpoint begins, pauses the guest, goes on and ends, and that it overran. Out: when
 * it does, and when a secondary is looked for after a session. A link that was too slow once is
 * likely to be so again, and each new session ends in another wait: so the time between them
 * doubles, until a session has lasted.
 */
import {
  CONNECT_RETRY_US,
  OVERRUN_AGAIN_US,
  OVERRUN_REST_US_MAX,
  OVERRUN_REST_US_MIN,
} from './limits.js';

export class HoldLimit {
  readonly #limitUs: number;
  readonly #tickUs: number;
  #askedAtUs = 0;
  #dueUs = Number.POSITIVE_INFINITY;
  /** Left when the guest was paused. */
  #leftUs: number;
  #overranAtUs = Number.NEGATIVE_INFINITY;
  #restUs = 0;
  /** The session that ends is one that overran. */
  #rests = false;

  /** It is asked with each heartbeat at least. */
  constructor(options: { readonly holdLimitUs: number; readonly heartbeatUs: number }) {
    this.#limitUs = options.holdLimitUs;
    this.#tickUs = options.heartbeatUs;
    this.#leftUs = options.holdLimitUs;
  }

  /** When the checkpoint under way is overdue; infinity between two, and in the pause. */
  get dueUs(): number {
    return this.#dueUs;
  }

  isOverdue(nowUs: number): boolean {
    this.#dueUs += Math.max(0, nowUs - this.#askedAtUs - 2 * this.#tickUs);
    this.#askedAtUs = nowUs;
    return nowUs >= this.#dueUs;
  }

  begin(nowUs: number): void {
    this.#askedAtUs = nowUs;
    this.#dueUs = nowUs + this.#limitUs;
  }

  /** The guest is to stand still. */
  pause(nowUs: number): void {
    this.#leftUs = Math.min(this.#limitUs, this.#dueUs - nowUs);
    this.#dueUs = Number.POSITIVE_INFINITY;
  }

  /** It has stood still, and the rest is the secondary's. */
  goOn(nowUs: number): void {
    this.#askedAtUs = nowUs;
    this.#dueUs = nowUs + this.#leftUs;
  }

  end(): void {
    this.#dueUs = Number.POSITIVE_INFINITY;
  }

  /** The session is to be given up; why. */
  overran(epoch: number, nowUs: number): string {
    const isAgain = nowUs - this.#overranAtUs < this.#restUs + OVERRUN_AGAIN_US;
    const restUs = isAgain ? 2 * this.#restUs : OVERRUN_REST_US_MIN;
    this.#restUs = Math.min(restUs, OVERRUN_REST_US_MAX);
    this.#overranAtUs = nowUs;
    this.#rests = true;
    const limitMs = this.#limitUs / 1000;
    return `The checkpoint of epoch ${epoch} took longer than hold-limit, ${limitMs} ms`;
  }

  /** A session is over: after this long, microseconds, a secondary is looked for. */
  over(): number {
    const restUs = this.#rests ? this.#restUs : CONNECT_RETRY_US;
    this.#rests = false;
    this.end();
    return restUs;
  }
}
