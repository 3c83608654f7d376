/**
 * What a round of the migration matrix must have shown. In: what was seen. Out: each violation in
 * words. Pure.
 */
import type { ClientReports } from '../clients/client.js';
import type { Silence } from '../harness/prober-process.js';
import type { Method } from './cells.js';

/** How often the prober asks. */
const INTERVAL_MS = 1;
/** The guest may answer before its host's agent says that it runs. */
const AROUND_US = 50_000;

/**
 * What an outage may be longer than the downtime, milliseconds: before the pause the host's input
 * stands still until QEMU has read what is on its way; after it the new QEMU translates all of the
 * guest's code anew (TCG), and in postcopy what answers must come over the link first.
 */
export const ALLOWANCE_MS: Readonly<Record<Method, number>> = {
  precopy: 150,
  hybrid: 300,
  postcopy: 1000,
};

export interface DowntimeFacts {
  readonly method: Method;
  readonly downtimeMs: number | null;
  readonly silences: readonly Silence[];
  /** When the guest ran at the destination, as its agent says; CLOCK_MONOTONIC. */
  readonly runsUs: number;
  readonly slackMs: number;
}

export interface DowntimeVerdict {
  /** The silence in which the guest moved. */
  readonly outageMs: number;
  /** The longest before it: the guest is busy or slowed down, or the machine is busy. */
  readonly usualMs: number;
  /** The longest after it: of a postcopy, pages that the guest waits for. */
  readonly laterMs: number;
  readonly lateMs: number;
  readonly problems: readonly string[];
}

/**
 * Downtime and outage agree if the outage is at least the downtime less one interval, and at most
 * the downtime, the allowance and the longest silence before it together. Both may be missed
 * by as much as the prober itself was late.
 */
export function judgeDowntime(facts: DowntimeFacts): DowntimeVerdict {
  const { method, downtimeMs, silences, runsUs, slackMs } = facts;
  const lengthMs = (silence: Silence): number => (silence.toUs - silence.fromUs) / 1000;
  const near = silences.filter(
    ({ fromUs, toUs }) => fromUs <= runsUs && toUs >= runsUs - AROUND_US,
  );
  // A hiccup may be right before it.
  const then = near.sort((one, other) => lengthMs(other) - lengthMs(one))[0];
  const longestMs = (some: readonly Silence[]): number => Math.max(0, ...some.map(lengthMs));
  const verdict = {
    outageMs: then === undefined ? 0 : lengthMs(then),
    usualMs: longestMs(silences.filter(({ toUs }) => toUs <= (then?.fromUs ?? runsUs))),
    laterMs: longestMs(silences.filter(({ fromUs }) => fromUs >= (then?.toUs ?? runsUs))),
    lateMs: (then?.lateUs ?? 0) / 1000,
  };
  const { outageMs, usualMs, lateMs } = verdict;
  if (downtimeMs === null) return { ...verdict, problems: ['No downtime was told'] };
  const min = downtimeMs - INTERVAL_MS - lateMs;
  const max = downtimeMs + ALLOWANCE_MS[method] + usualMs + lateMs + slackMs;
  if (outageMs >= min && outageMs <= max) return { ...verdict, problems: [] };
  const text = (ms: number): string => ms.toFixed(1);
  const problem =
    `The downtime is told as ${text(downtimeMs)} ms; the prober saw ${text(outageMs)} ms, ` +
    `where ${text(min)} to ${text(max)} agree`;
  return { ...verdict, problems: [problem] };
}

/** Connections and writes that clients have lost, in words. */
export function judgeClients(reports: ClientReports): string[] {
  const { http, redis, stream, accepted, dialled } = reports;
  const problems: string[] = [];
  const expectNone = (what: string, count: number | undefined): void => {
    if (count !== 0) problems.push(`${what}: ${count ?? 'not known'}`);
  };
  for (const [name, report] of Object.entries({ http, redis, stream })) {
    if (report !== undefined) expectNone(`connections lost, ${name}`, report.connectionsLost);
  }
  if (redis !== undefined) expectNone('acknowledged writes lost', redis.acknowledgedLost);
  if (stream !== undefined) {
    expectNone('lines of the stream missing', stream.missing);
    expectNone('lines of the stream twice', stream.repeats);
    expectNone('lines of the stream malformed', stream.malformed);
  }
  for (const [name, report] of Object.entries({ accepted, dialled })) {
    if (report === undefined) continue;
    expectNone(`dead connections, ${name}`, report.dead);
    expectNone(`wrong bytes, ${name}`, report.wrong);
  }
  if (dialled !== undefined) {
    const { wrong, broken, failed } = dialled.guest ?? {};
    expectNone('wrong bytes, seen by the guest', wrong);
    expectNone('broken connections, seen by the guest', broken);
    expectNone('failed connections, seen by the guest', failed);
  }
  return problems;
}

/** Of the log of the host that the guest came to, in a `--verify` run. */
export function judgeRam(log: string): string[] {
  const wrong = /RAM has the digest[^"]*|RAM was never whole/.exec(log)?.[0];
  if (wrong !== undefined) return [wrong];
  return log.includes('RAM verified') ? [] : ['RAM was not verified'];
}
