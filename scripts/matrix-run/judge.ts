/**
 * What a round of the fault matrix must have shown. In: what was seen of the pair, of the clients
 * and on the LAN. Out: the outage, and each violation in words. Pure.
 */
import type { TimedClientName } from '../clients/client.js';
import type { HostName } from '../harness/lab.js';
import { type Cell, judgedClients } from './cells.js';

/** Beyond what noticing takes: for the decision, and for the other guest to be heard. */
const TAKEOVER_MS = 500;
const UNDISTURBED_MS = 500;
/**
 * Nothing of the clients' reached either guest meanwhile, and the first time-out of their TCP is what
 * a nudge leaves of it (src/proxy/nudge-wire.ts).
 */
const CLIENT_TIMER_MS = 500;
/** As GATEWAY_SILENCE_US of src/failover and COMMIT_TIMEOUT_US of src/primary. */
const GATEWAY_SILENCE_MS = 1000;

/** A client was without an answer; times are CLOCK_MONOTONIC in microseconds. */
export interface ClientGap {
  readonly client: TimedClientName;
  readonly fromUs: number;
  readonly toUs: number;
}

export interface RoundFacts {
  readonly cell: Cell;
  readonly peerTimeoutMs: number;
  readonly holdLimitMs: number;
  readonly slackMs: number;
  /** When the fault was there, when it was mended, when the guest was protected again. */
  readonly faultUs: number;
  readonly mendedUs: number;
  /** Who ran the guest before the fault, and who afterwards. */
  readonly before: HostName;
  readonly after: HostName;
  /** Gaps of the whole round that are worth telling. */
  readonly gaps: readonly ClientGap[];
  /** Why connections were lost, one for each. */
  readonly lostConnections: readonly string[];
  /** Undefined: the guest could not be asked. */
  readonly acknowledgedLost: number | undefined;
  /** Who was heard on the LAN, each as often as it took the word from the other. */
  readonly speakers: readonly HostName[];
  /** The same in words. */
  readonly heard: string;
  /** What did not come about in time, in words. */
  readonly failures: readonly string[];
}

export interface RoundVerdict {
  readonly outageMs: number;
  readonly boundMs: number;
  /** The longest wait of a client that began when the fault was mended or later. */
  readonly laterMs: number;
  readonly problems: readonly string[];
}

/** How long clients may be without an answer, milliseconds. */
export function boundOf({
  cell,
  peerTimeoutMs,
  holdLimitMs,
  slackMs,
}: Pick<RoundFacts, 'cell' | 'peerTimeoutMs' | 'holdLimitMs' | 'slackMs'>): number {
  switch (cell.bound) {
    case 'loss':
      return peerTimeoutMs + TAKEOVER_MS + slackMs;
    case 'gateway':
      return GATEWAY_SILENCE_MS + TAKEOVER_MS + CLIENT_TIMER_MS + slackMs;
    case 'weather':
      return holdLimitMs + TAKEOVER_MS + slackMs;
    case 'none':
      return UNDISTURBED_MS + slackMs;
  }
}

export function judgeRound(facts: RoundFacts): RoundVerdict {
  const { cell, faultUs, mendedUs, before, after, speakers } = facts;
  const gaps = facts.gaps.filter(({ client }) => judgedClients(cell).includes(client));
  const outage = longest(gaps.filter((gap) => gap.toUs > faultUs && gap.fromUs < mendedUs));
  const outageMs = lengthMs(outage);
  const laterMs = lengthMs(longest(gaps.filter(({ fromUs }) => fromUs >= mendedUs)));
  const boundMs = boundOf(facts);
  const problems = [...facts.failures];
  if (outage !== undefined && outageMs > boundMs) {
    const beganMs = Math.round((outage.fromUs - faultUs) / 1000);
    const when = beganMs < 0 ? `${-beganMs} ms before` : `${beganMs} ms after`;
    problems.push(
      `An outage of ${outageMs} ms (${outage.client}, from ${when} the fault), allowed are ${boundMs}`,
    );
  }
  if (cell.expected === 'failover' && after === before) problems.push('Nobody took over');
  if (cell.expected !== 'failover' && after !== before) problems.push('A take-over without need');
  // Once each, in this order; a host that is heard again has never stopped.
  const allowed = after === before ? [before] : [before, after];
  if (speakers.join() !== allowed.join()) {
    const instead = `${speakers.join(', ')} instead of ${allowed.join(', ')}`;
    problems.push(`Heard on the LAN: ${instead} (frames: ${facts.heard})`);
  }
  if (facts.acknowledgedLost === undefined) problems.push('Writes could not be read back');
  else if (facts.acknowledgedLost > 0) {
    problems.push(`${facts.acknowledgedLost} acknowledged writes lost`);
  }
  const lost = lostOf(facts);
  if (lost[0] !== undefined) {
    problems.push(`${lost.length} connections lost, the first: ${lost[0]}`);
  }
  return { outageMs, boundMs, laterMs, problems };
}

/** A client that lost its patience in bad weather has lost nothing else. */
export function lostOf({
  cell,
  lostConnections,
}: Pick<RoundFacts, 'cell' | 'lostConnections'>): readonly string[] {
  if (cell.bound !== 'weather') return lostConnections;
  return lostConnections.filter((reason) => !/No complete answer within/.test(reason));
}

function longest(gaps: readonly ClientGap[]): ClientGap | undefined {
  return [...gaps].sort((a, b) => lengthMs(b) - lengthMs(a))[0];
}

function lengthMs(gap: ClientGap | undefined): number {
  return gap === undefined ? 0 : Math.round((gap.toUs - gap.fromUs) / 1000);
}
