/** Figures of the primary's checkpoints for status; bounded, newest kept. */
import type { Trigger } from './primary-core.js';

const SAMPLES_MAX = 4096;

/** What one checkpoint cost. */
export interface CheckpointFigures {
  readonly trigger: Trigger;
  /** vCPUs stopped, from the stop request to the confirmed resume. */
  readonly pauseUs: number;
  /** Pages shipped for the epoch in all, and those copied during the pause. */
  readonly pages: number;
  readonly pagesInPause: number;
}

/** Collects figures; quantiles are over the last 4,096 checkpoints, without initial ones. */
export class CheckpointStatistics {
  readonly #pausesUs: number[] = [];
  readonly byTrigger: Record<string, number> = {};
  total = 0;
  failed = 0;
  last: CheckpointFigures | undefined;

  add(figures: CheckpointFigures): void {
    this.total += 1;
    this.byTrigger[figures.trigger] = (this.byTrigger[figures.trigger] ?? 0) + 1;
    this.last = figures;
    if (figures.trigger === 'sync') return;
    this.#pausesUs.push(figures.pauseUs);
    if (this.#pausesUs.length > SAMPLES_MAX) this.#pausesUs.shift();
  }

  /** The pause below which `fraction` of the checkpoints stayed, in microseconds. */
  pauseQuantileUs(fraction: number): number | undefined {
    const sorted = [...this.#pausesUs].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(fraction * sorted.length))];
  }
}
