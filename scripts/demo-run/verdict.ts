/**
 * What a demo run must have shown. In: what the clients and the daemons reported. Out: the one JSON
 * line of the demo and, where it is not ok, the reasons in words.
 */
import type { ClientReports, DialledReport, TimedClientName } from '../clients/client.js';
import { type Census, type ConnectionCounts, takeCensus } from '../clients/connections.js';
import { lengthUs } from '../clients/continuity.js';

/** Longest outage that a client may see. */
export const OUTAGE_MS_MAX = 1000;

export const FAULTS = ['kill-primary', 'kill-secondary', 'kill-qemu-primary', 'none'] as const;
export type Fault = (typeof FAULTS)[number];

/** What the daemons said about the run. */
export interface PairFacts {
  readonly mode: string;
  readonly fault: Fault;
  /** The pair was protected when the load started and when the fault was injected. */
  readonly protectedAtFault: boolean;
  /** The secondary serves as primary at the end. */
  readonly failedOver: boolean;
  readonly checkpoints: number;
  readonly pauseMs: { readonly median: number; readonly p99: number };
  /** When the fault came; without one, the middle of the load. */
  readonly faultUs: number;
  /** Not earlier than the last commit before it. */
  readonly checkpointUs: number;
}

/** The demo's last line. Figures that could not be had are null, and then `ok` is false. */
export interface DemoResult {
  readonly ok: boolean;
  readonly mode: string;
  readonly fault: Fault;
  readonly outageMs: Readonly<Record<TimedClientName, number | null>>;
  readonly acknowledgedWritesLost: number | null;
  readonly streamGaps: number | null;
  readonly streamRepeats: number | null;
  /** Of the HTTP, redis and stream clients. */
  readonly connectionsLost: number | null;
  /** Connections with a dialogue that ended, never came to be, or fell silent. */
  readonly deadConnections: number | null;
  /** Connections with a dialogue on which a byte was lost, repeated or changed. */
  readonly wrongConnections: number | null;
  /** What the guest itself found: wrong lines, broken connections, failed dials. */
  readonly guestComplaints: number | null;
  /** Random answers that a client saw and the guest does not know. */
  readonly contradictions: number | null;
  /** Connections with a dialogue that were open at the fault. */
  readonly opened: Readonly<Record<'accepted' | 'dialled', Census | null>>;
  readonly checkpoints: number;
  readonly pauseMs: { readonly median: number; readonly p99: number };
  /** Why it is not ok; absent when it is. */
  readonly problems?: readonly string[];
}

export function judge(facts: PairFacts, reports: ClientReports): DemoResult {
  const { http, redis, stream, accepted, dialled, random } = reports;
  const outageMs = { http: outage(http), redis: outage(redis), stream: outage(stream) };
  const figures = {
    acknowledgedWritesLost: redis?.acknowledgedLost ?? null,
    streamGaps: stream === undefined ? null : stream.missing + stream.malformed,
    streamRepeats: stream?.repeats ?? null,
    connectionsLost: sum(http?.connectionsLost, redis?.connectionsLost, stream?.connectionsLost),
    deadConnections: sum(accepted?.dead, dialled?.dead, dialled?.controlsLost),
    wrongConnections: sum(accepted?.wrong, dialled?.wrong),
    guestComplaints: complaints(dialled),
    contradictions: sum(random?.contradictions, random?.stray),
  };
  const opened = { accepted: census(accepted, facts), dialled: census(dialled, facts) };
  const problems = [
    ...roleProblems(facts),
    ...clientProblems(reports),
    ...Object.entries(figures).flatMap(([name, value]) => mustBeZero(name, value)),
    ...Object.entries(outageMs).flatMap(([name, value]) => mustBeShort(name, value)),
  ];
  return {
    ok: problems.length === 0,
    mode: facts.mode,
    fault: facts.fault,
    outageMs,
    ...figures,
    opened,
    checkpoints: facts.checkpoints,
    pauseMs: facts.pauseMs,
    ...(problems.length === 0 ? {} : { problems }),
  };
}

function roleProblems(facts: PairFacts): string[] {
  const problems: string[] = [];
  const wanted = facts.fault === 'kill-primary' || facts.fault === 'kill-qemu-primary';
  if (!facts.protectedAtFault) problems.push('The guest was not protected when the fault came');
  if (facts.checkpoints === 0) problems.push('There was no checkpoint during the load');
  if (wanted && !facts.failedOver) problems.push('The secondary did not take over');
  if (!wanted && facts.failedOver) problems.push('The secondary took over without need');
  return problems;
}

function clientProblems(reports: ClientReports): string[] {
  const { http, redis, stream, accepted, dialled, random } = reports;
  const problems: string[] = [];
  const all = { http, redis, stream, accepted, dialled, random };
  for (const [name, report] of Object.entries(all)) {
    if (report === undefined || report.successes === 0)
      problems.push(`${name} never got an answer`);
  }
  if (redis !== undefined && redis.refused > 0) problems.push(`${redis.refused} writes refused`);
  if (http !== undefined && http.skipped > 0) problems.push(`${http.skipped} fetches not started`);
  return problems;
}

function mustBeZero(name: string, value: number | null): string[] {
  if (value === null) return [`${name} is not known`];
  return value === 0 ? [] : [`${name} is ${value}`];
}

function mustBeShort(name: string, value: number | null): string[] {
  if (value === null) return [`The outage of ${name} is not known`];
  return value <= OUTAGE_MS_MAX ? [] : [`The outage of ${name} is ${value} ms`];
}

function complaints(dialled: DialledReport | undefined): number | null {
  return sum(dialled?.guest?.wrong, dialled?.guest?.broken, dialled?.guest?.failed);
}

function census(report: ConnectionCounts | undefined, facts: PairFacts): Census | null {
  return report === undefined ? null : takeCensus(report.connections, facts);
}

function outage(report: ClientReports[TimedClientName] | undefined): number | null {
  const longest = report?.longestGap;
  return longest === undefined ? null : Math.round(lengthUs(longest) / 1000);
}

function sum(...values: readonly (number | undefined)[]): number | null {
  let total = 0;
  for (const value of values) {
    if (value === undefined) return null;
    total += value;
  }
  return total;
}
