/**
 * How long clients wait for a secondary that lives and does not follow, and how long such a one is
 * left alone then.
 *
 * In: when a checkpoint begins and ends, and that it overran. Out: when it does, and when a
 * secondary is looked for after a session. A link that was too slow once is likely to be so again,
 * and each new session ends in another wait: so the time between them doubles, until a session has
 * lasted.
 */
import {
  CONNECT_RETRY_US,
  OVERRUN_AGAIN_US,
  OVERRUN_REST_US_MAX,
  OVERRUN_REST_US_MIN,
} from './limits.js';

export class HoldLimit {
  readonly #limitUs: number;
  #beganAtUs: number | undefined;
  #overranAtUs = Number.NEGATIVE_INFINITY;
  #restUs = 0;
  /** The session that ends is one that overran. */
  #rests = false;

  constructor(limitUs: number) {
    this.#limitUs = limitUs;
  }

  /** When the checkpoint under way is overdue; infinity between two. */
  get dueUs(): number {
    return this.#beganAtUs === undefined
      ? Number.POSITIVE_INFINITY
      : this.#beganAtUs + this.#limitUs;
  }

  begin(nowUs: number): void {
    this.#beganAtUs = nowUs;
  }

  end(): void {
    this.#beganAtUs = undefined;
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
