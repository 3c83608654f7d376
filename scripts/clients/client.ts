/** What the load clients have in common: their interface, their events and their reports. */
import type { ConnectionCounts } from './connections.js';
import type { Gap } from './continuity.js';
import type { SequenceCounts } from './sequence.js';

/** Where the guest is; ports differ from the guest's own only in tests. */
export interface Target {
  readonly host: string;
  readonly port: number;
}

/** Clients that ask all the time, so that the longest time between two answers is an outage. */
export const TIMED_CLIENTS = ['http', 'redis', 'stream'] as const;
export type TimedClientName = (typeof TIMED_CLIENTS)[number];

/** All clients: the last three open connections, make the guest open some, ask for randomness. */
export const CLIENT_NAMES = [...TIMED_CLIENTS, 'accepted', 'dialled', 'random'] as const;
export type ClientName = (typeof CLIENT_NAMES)[number];

/** Something worth telling while the load runs; times are CLOCK_MONOTONIC in microseconds. */
export type ClientEvent =
  | { readonly type: 'gap'; readonly client: ClientName; readonly gap: Gap }
  | {
      readonly type: 'lost';
      readonly client: ClientName;
      readonly atUs: number;
      readonly reason: string;
    };

/** Given to each client; called synchronously. */
export type EventSink = (event: ClientEvent) => void;

interface CommonReport {
  readonly successes: number;
  /** The longest time between two successive successes; undefined if the load had no length. */
  readonly longestGap: Gap | undefined;
  /** Connections that broke, answered wrongly or did not answer in time. */
  readonly connectionsLost: number;
}

export interface HttpReport extends CommonReport {
  readonly started: number;
  /** Fetches not started because too many were under way. */
  readonly skipped: number;
  readonly medianFetchUs: number;
  readonly slowestFetchUs: number;
}

export interface RedisReport extends CommonReport {
  readonly acknowledged: number;
  /** Acknowledged writes that were not read back; undefined if reading back failed. */
  readonly acknowledgedLost: number | undefined;
  /** Writes that redis answered with an error. */
  readonly refused: number;
  readonly medianWriteUs: number;
}

export interface StreamReport extends CommonReport, SequenceCounts {}

/** Connections that the client opened, each with a dialogue; `successes` are right answers. */
export interface DialogueReport extends ConnectionCounts {
  readonly successes: number;
  readonly medianAnswerUs: number;
  readonly slowestAnswerUs: number;
}

/** What the guest counted of all dialogues; `failed` are dials that did not connect. */
export interface GuestTotals {
  readonly lines: number;
  readonly wrong: number;
  readonly broken: number;
  readonly failed: number;
}

/** Connections that the guest opened; `successes` are right lines. */
export interface DialledReport extends ConnectionCounts {
  readonly successes: number;
  /** Undefined if the guest could not be asked. */
  readonly guest: GuestTotals | undefined;
  /** Control connections that broke or could not be opened. */
  readonly controlsLost: number;
}

export interface RandomReport {
  readonly successes: number;
  readonly asked: number;
  /** Datagrams may be lost, so this is no failure. */
  readonly unanswered: number;
  readonly answeredTwice: number;
  /** Answers to questions that were never asked. */
  readonly stray: number;
  /** Answers seen that the guest does not know; undefined if it could not be asked. */
  readonly contradictions: number | undefined;
  readonly medianAnswerUs: number;
}

export interface ClientReports {
  readonly http?: HttpReport;
  readonly redis?: RedisReport;
  readonly stream?: StreamReport;
  readonly accepted?: DialogueReport;
  readonly dialled?: DialledReport;
  readonly random?: RandomReport;
}

/** Connections that are open and that somebody began to open after a certain time. */
export interface OpenCount {
  readonly accepted: number;
  readonly dialled: number;
}

/** What was read back while the load goes on; undefined where the guest could not be asked. */
export interface Verification {
  readonly acknowledgedLost?: number | undefined;
  readonly contradictions?: number | undefined;
}

/** A load client; `stop` ends the load, waits for what is under way, verifies and reports. */
export interface LoadClient<Report> {
  start(): void;
  /** Outages count from now on; what was lost during the warm-up stays lost. */
  endWarmUp(): void;
  stop(): Promise<Report>;
  /** Successes so far. */
  readonly successes: number;
}

/** A client gives up on an answer after this time and counts the connection as lost. */
export const ANSWER_DEADLINE_MS = 10_000;
