/** What the load clients have in common: their interface, their events and their reports. */
import type { Gap } from './continuity.js';
import type { SequenceCounts } from './sequence.js';

/** Where the guest is; ports differ from the guest's own only in tests. */
export interface Target {
  readonly host: string;
  readonly port: number;
}

export type ClientName = 'http' | 'redis' | 'stream';

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

export interface ClientReports {
  readonly http?: HttpReport;
  readonly redis?: RedisReport;
  readonly stream?: StreamReport;
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
