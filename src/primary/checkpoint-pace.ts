/**
 * How long an epoch may last: what the operator set, what is usual for the mode, or, with `auto`,
 * what the guests' behaviour suggests.
 *
 * `auto` in mode colo: a checkpoint that a divergence forced halves the period, one that only the
 * period forced lengthens it by half. Guests that diverge often get short epochs, so that the
 * checkpoint that a waiting client needs has little to ship; guests that agree are left alone.
 *
 * In: checkpoints with their triggers. Out: `periodUs`, between the shortest interval and 10 s.
 */
import { DEFAULT_PERIOD_US, type Mode, type PeriodSetting } from '../config/index.js';
import { ADAPTIVE_PERIOD_US_MAX } from './limits.js';

const DIVERGENCE_FACTOR = 0.5;
const AGREEMENT_FACTOR = 1.5;

export class CheckpointPace {
  readonly #minIntervalUs: number;
  #mode: Mode;
  #setting: PeriodSetting | undefined;
  #adaptiveUs = DEFAULT_PERIOD_US.colo;

  constructor(options: {
    mode: Mode;
    period: PeriodSetting | undefined;
    minIntervalUs: number;
  }) {
    this.#mode = options.mode;
    this.#setting = options.period;
    this.#minIntervalUs = options.minIntervalUs;
  }

  get mode(): Mode {
    return this.#mode;
  }

  set mode(mode: Mode) {
    this.#mode = mode;
    this.#adaptiveUs = DEFAULT_PERIOD_US.colo;
  }

  get setting(): PeriodSetting | undefined {
    return this.#setting;
  }

  set setting(setting: PeriodSetting) {
    this.#setting = setting;
    this.#adaptiveUs = DEFAULT_PERIOD_US.colo;
  }

  /** Longest time from a resume to the next checkpoint, microseconds. */
  get periodUs(): number {
    if (typeof this.#setting === 'number') return Math.max(this.#setting, this.#minIntervalUs);
    const adapts = this.#setting === 'auto' && this.#mode === 'colo';
    return Math.max(adapts ? this.#adaptiveUs : DEFAULT_PERIOD_US[this.#mode], this.#minIntervalUs);
  }

  /** A checkpoint was taken. `diverged`: because the guests did not say the same. */
  checkpointed(diverged: boolean): void {
    const us = this.#adaptiveUs * (diverged ? DIVERGENCE_FACTOR : AGREEMENT_FACTOR);
    const bounded = Math.min(Math.max(us, this.#minIntervalUs), ADAPTIVE_PERIOD_US_MAX);
    this.#adaptiveUs = Math.round(bounded);
  }
}
