/** Several demo runs in one line of JSON. Pure. */
import type { ClientName } from '../clients/client.js';
import { median } from '../harness/median.js';
import type { DemoResult, Fault } from './verdict.js';

/** A run that broke off before there was anything to judge. */
export interface Failure {
  readonly ok: false;
  readonly mode: string;
  readonly fault: Fault;
  readonly problems: readonly string[];
}

export interface Spread {
  readonly median: number;
  readonly max: number;
}

export interface Summary {
  readonly ok: boolean;
  readonly runs: number;
  readonly okRuns: number;
  readonly outageMs: Readonly<Record<ClientName, Spread | null>>;
  readonly acknowledgedWritesLost: number;
  readonly streamGaps: number;
  readonly streamRepeats: number;
  readonly connectionsLost: number;
  /** Each problem with the number of the run, from 1. */
  readonly problems: readonly string[];
}

/** Sums of losses, spread of outages; what is not known in a run is in `problems`. */
export function summarise(results: readonly (DemoResult | Failure)[]): Summary {
  const judged = results.filter((result): result is DemoResult => 'outageMs' in result);
  const total = (of: (result: DemoResult) => number | null): number =>
    judged.reduce((sum, result) => sum + (of(result) ?? 0), 0);
  const okRuns = results.filter((result) => result.ok).length;
  return {
    ok: okRuns === results.length,
    runs: results.length,
    okRuns,
    outageMs: {
      http: spread(judged.map((result) => result.outageMs.http)),
      redis: spread(judged.map((result) => result.outageMs.redis)),
      stream: spread(judged.map((result) => result.outageMs.stream)),
    },
    acknowledgedWritesLost: total((result) => result.acknowledgedWritesLost),
    streamGaps: total((result) => result.streamGaps),
    streamRepeats: total((result) => result.streamRepeats),
    connectionsLost: total((result) => result.connectionsLost),
    problems: results.flatMap((result, run) =>
      (result.problems ?? []).map((problem) => `run ${run + 1}: ${problem}`),
    ),
  };
}

function spread(values: readonly (number | null)[]): Spread | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : { median: median(known), max: Math.max(...known) };
}
