/** Output policies and the checkpoint period that goes with each; what a guest's panic means. */
import { formatDuration, parseDuration } from './duration.js';
import { PERIOD_US_MAX, PERIOD_US_MIN } from './limits.js';

/**
 * When guest output leaves. `colo`: as soon as the SVM has said the same, else with the next
 * checkpoint. `checkpoint`: with the next checkpoint; the SVM stands still in between.
 */
export type Mode = 'checkpoint' | 'colo';

export const MODES = ['checkpoint', 'colo'] as const satisfies readonly Mode[];

/** What is done when the guest's kernel says that it has panicked. */
export type GuestPanicAction = (typeof GUEST_PANIC_ACTIONS)[number];

export const GUEST_PANIC_ACTIONS = ['reset', 'poweroff', 'none'] as const;

/** Longest time between checkpoints; `auto` follows how often the guests diverge. */
export type PeriodSetting = number | 'auto';

/**
 * What the operator does not set. In mode checkpoint every answer waits for it; in mode colo it
 * only bounds what a divergence has to ship.
 */
export const DEFAULT_PERIOD_US: Readonly<Record<Mode, number>> = {
  checkpoint: 200_000,
  colo: 1_000_000,
};

/** `auto` or a duration. Throws `ValueError`. */
export function parsePeriod(text: string): PeriodSetting {
  if (text === 'auto') return 'auto';
  return parseDuration(text, { minUs: PERIOD_US_MIN, maxUs: PERIOD_US_MAX });
}

/** The text that `parsePeriod` reads back. */
export function formatPeriod(period: PeriodSetting): string {
  return period === 'auto' ? 'auto' : formatDuration(period);
}
