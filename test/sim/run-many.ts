/** Runs consecutive seeds and adds up what happened. */
import type { Breakage } from './checker.js';
import type { Coverage } from './coverage.js';
import type { Kind } from './options.js';
import { runSeed } from './simulation.js';

export interface Summary {
  readonly passed: number;
  readonly knownLimits: number;
  readonly knownGaps: number;
  /** The seeds, in order. */
  readonly failed: readonly number[];
  /** What failed, by the invariant, and how often. */
  readonly failures: Readonly<Record<string, number>>;
  readonly seconds: number;
  readonly events: number;
}

export interface ManyParts {
  readonly from: number;
  readonly count: number;
  readonly breakage?: Breakage | undefined;
  readonly coverage: Coverage;
  /** Of the faults; all if left out. */
  readonly kinds?: readonly Kind[] | undefined;
  readonly witness?: boolean | undefined;
  /** Stop at the first failure. */
  readonly first?: boolean;
}

export function runMany(parts: ManyParts): Summary {
  const { from, count, breakage, coverage, kinds, witness } = parts;
  const startedMs = performance.now();
  const failed: number[] = [];
  const failures: Record<string, number> = {};
  let passed = 0;
  let knownLimits = 0;
  let knownGaps = 0;
  let events = 0;
  for (let seed = from; seed < from + count; seed += 1) {
    const result = runSeed({ seed, breakage, coverage, kinds, witness });
    events += result.events;
    if (result.verdict === 'ok') passed += 1;
    else if (result.verdict === 'known limit') knownLimits += 1;
    else if (result.verdict === 'known gap') knownGaps += 1;
    else {
      failed.push(seed);
      const name = result.detail.split(':')[0] ?? '';
      failures[name] = (failures[name] ?? 0) + 1;
      if (parts.first === true) break;
    }
  }
  const seconds = (performance.now() - startedMs) / 1000;
  return { passed, knownLimits, knownGaps, failed, failures, seconds, events };
}
