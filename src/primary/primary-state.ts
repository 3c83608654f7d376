/** Where a primary stands, what it goes by, and why it takes a checkpoint. */
import type { Mode, PeriodSetting } from '../config/index.js';
import {
  PRESEND_ENOUGH_PAGES,
  PRESEND_ROUNDS_MAX,
  SYNC_ENOUGH_BYTES,
  SYNC_ROUNDS_MAX,
} from './limits.js';

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
  | Synchronising
  | { readonly kind: 'running' }
  | Presending
  | { readonly kind: 'capturing'; readonly trigger: Trigger }
  | { readonly kind: 'committing'; readonly trigger: Trigger }
  | { readonly kind: 'applying' };

interface Synchronising {
  readonly kind: 'synchronising';
  readonly round: number;
}

interface Presending {
  readonly kind: 'presending';
  readonly trigger: Trigger;
  readonly round: number;
  /** Written since the round before. */
  readonly pages: number;
}

/** Undefined: what is left goes with the first checkpoint. */
export function nextSync(
  { round }: Synchronising,
  remainingBytes: number,
): Synchronising | undefined {
  if (remainingBytes <= SYNC_ENOUGH_BYTES || round >= SYNC_ROUNDS_MAX) return undefined;
  return { kind: 'synchronising', round: round + 1 };
}

/**
 * Rounds go on while they are worth it: each must be clearly smaller than the one before.
 * Undefined: what is left goes with the pause.
 */
export function nextPresend(phase: Presending, pages: number): Presending | undefined {
  const shrinks = pages < 0.7 * phase.pages;
  if (pages <= PRESEND_ENOUGH_PAGES || !shrinks || phase.round >= PRESEND_ROUNDS_MAX) {
    return undefined;
  }
  return { ...phase, round: phase.round + 1, pages };
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
  /** A session whose checkpoint takes longer is given up. */
  readonly holdLimitUs: number;
  readonly heartbeatUs: number;
  /** False: nobody but this pair decides who goes on alone. */
  readonly hasWitness: boolean;
  /** The first epoch; greater than any that this pair has used before (I5). */
  readonly firstEpoch: number;
}
