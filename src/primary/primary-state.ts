/** Where a primary stands, what it goes by, and why it takes a checkpoint. */
import type { Mode, PeriodSetting } from '../config/index.js';
import { COMMIT_TIMEOUT_US } from './limits.js';

/**
 * What asked for a checkpoint; counted in status. `divergence`: the guests said different things;
 * `timeout`: the SVM did not say it in time; `mode`: the output policy has changed; `switchover`: the
 * last one before the guest goes on at the peer.
 */
export type Trigger = 'sync' | 'period' | RequestedTrigger;
export type RequestedTrigger =
  | 'bound'
  | 'divergence'
  | 'timeout'
  | 'mode'
  | 'operator'
  | 'switchover';

export type PrimaryPhase =
  | { readonly kind: 'synchronising'; readonly round: number }
  | { readonly kind: 'running' }
  | {
      readonly kind: 'presending';
      readonly trigger: Trigger;
      readonly round: number;
      readonly pages: number;
    }
  | { readonly kind: 'capturing'; readonly trigger: Trigger }
  | { readonly kind: 'committing'; readonly trigger: Trigger; readonly sinceUs: number }
  | { readonly kind: 'applying'; readonly sinceUs: number };

/** When the secondary's answer is overdue; infinity where none is awaited. */
export function answerDueUs(phase: PrimaryPhase): number {
  const waits = phase.kind === 'committing' || phase.kind === 'applying';
  return waits ? phase.sinceUs + COMMIT_TIMEOUT_US : Number.POSITIVE_INFINITY;
}

export type PrimaryState =
  /** `retryAtUs` undefined: it looks for no secondary. */
  | {
      readonly kind: 'alone';
      readonly retryAtUs: number | undefined;
      readonly reason: string;
    }
  | { readonly kind: 'connecting' }
  | PrimarySession
  | { readonly kind: 'left'; readonly reason: string };

export interface PrimarySession {
  readonly kind: 'session';
  readonly phase: PrimaryPhase;
  readonly committed: boolean;
  /** With a witness: `protecting` was told. */
  readonly shared: boolean;
}

export interface PrimaryOptions {
  readonly mode: Mode;
  /** Undefined: what is usual for the mode. */
  readonly period: PeriodSetting | undefined;
  readonly minIntervalUs: number;
  readonly peerTimeoutUs: number;
  readonly heartbeatUs: number;
  /** False: nobody but this pair decides who goes on alone. */
  readonly hasWitness: boolean;
  /** The first epoch; greater than any that this pair has used before (I5). */
  readonly firstEpoch: number;
}
