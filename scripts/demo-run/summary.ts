/** Several demo runs in one line of JSON. Pure. */
import type { TimedClientName } from '../clients/client.js';
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

export interface OpenedSum {
  readonly open: number;
  readonly survived: number;
  readonly sinceCheckpoint: number;
  readonly sinceCheckpointSurvived: number;
}

export interface Summary {
  readonly ok: boolean;
  readonly runs: number;
  readonly okRuns: number;
  readonly outageMs: Readonly<Record<TimedClientName, Spread | null>>;
  readonly acknowledgedWritesLost: number;
  readonly streamGaps: number;
  readonly streamRepeats: number;
  readonly connectionsLost: number;
  readonly deadConnections: number;
  readonly wrongConnections: number;
  readonly guestComplaints: number;
  readonly contradictions: number;
  /** Connections that faults met: how many, how many of them new since the last checkpoint. */
  readonly opened: Readonly<Record<'accepted' | 'dialled', OpenedSum>>;
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
    deadConnections: total((result) => result.deadConnections),
    wrongConnections: total((result) => result.wrongConnections),
    guestComplaints: total((result) => result.guestComplaints),
    contradictions: total((result) => result.contradictions),
    opened: { accepted: sumOpened(judged, 'accepted'), dialled: sumOpened(judged, 'dialled') },
    problems: results.flatMap((result, run) =>
      (result.problems ?? []).map((problem) => `run ${run + 1}: ${problem}`),
    ),
  };
}

function sumOpened(results: readonly DemoResult[], by: 'accepted' | 'dialled'): OpenedSum {
  const total = (figure: keyof OpenedSum): number =>
    results.reduce((sum, { opened }) => sum + (opened[by]?.[figure] ?? 0), 0);
  return {
    open: total('open'),
    survived: total('survived'),
    sinceCheckpoint: total('sinceCheckpoint'),
    sinceCheckpointSurvived: total('sinceCheckpointSurvived'),
  };
}

function spread(values: readonly (number | null)[]): Spread | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : { median: median(known), max: Math.max(...known) };
}
