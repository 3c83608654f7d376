/** A secondary that is to leave, because an operator of the primary wants it. Pure. */
import { PART_TIMEOUT_US } from './limits.js';
import type { PrimaryOutput } from './primary-instructions.js';

const REASONS = {
  detach: 'Detached, as asked: "colo attach" ends it',
  stop: 'The secondary was stopped by the operator of the primary',
} as const;

export class Parting {
  /** Then its answer is not waited for any more. */
  byUs: number;
  readonly reason: string;
  readonly #goodbye: 'detach' | 'stop';
  #said = false;

  constructor(goodbye: 'detach' | 'stop', nowUs: number) {
    this.#goodbye = goodbye;
    this.reason = REASONS[goodbye];
    this.byUs = nowUs + PART_TIMEOUT_US;
  }

  get said(): boolean {
    return this.#said;
  }

  /** Once. */
  say(): PrimaryOutput[] {
    if (this.#said) return [];
    this.#said = true;
    return [{ kind: 'sendGoodbye', goodbye: this.#goodbye, reason: this.reason }];
  }
}
