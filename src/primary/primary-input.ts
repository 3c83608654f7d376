/** What the primary's core is told. */
import type { Mode, PeriodSetting } from '../config/index.js';
import type { ProbeResult } from '../failover/index.js';
import type { GoodbyeKind } from '../replication/index.js';
import type { RequestedTrigger } from './primary-state.js';

export type PrimaryInput =
  | { readonly kind: 'tick' }
  | { readonly kind: 'peerConnected' }
  /** `needsOperator`: it will refuse again until somebody has decided something. */
  | { readonly kind: 'peerRefused'; readonly reason: string; readonly needsOperator?: boolean }
  | { readonly kind: 'linkLost'; readonly reason: string }
  /** Connections of the session broke; `resumed` or `linkLost` follows. */
  | { readonly kind: 'interrupted'; readonly reason: string }
  | { readonly kind: 'resumed' }
  | { readonly kind: 'probed'; readonly result: ProbeResult }
  | { readonly kind: 'heard' }
  /** A round of the initial synchronisation was sent; this much has been written since. */
  | { readonly kind: 'syncRound'; readonly remainingBytes: number }
  /** A round of live pre-send was sent; it had this many pages. */
  | { readonly kind: 'presendRound'; readonly pages: number }
  /** The guest runs the next epoch; the state of the old one is on its way. */
  | { readonly kind: 'captured'; readonly epoch: number; readonly atUs: number }
  | { readonly kind: 'captureFailed'; readonly reason: string }
  | { readonly kind: 'committed'; readonly epoch: number }
  | { readonly kind: 'released'; readonly epoch: number }
  | { readonly kind: 'applied'; readonly epoch: number }
  | { readonly kind: 'peerUnfit'; readonly reason: string }
  /** The answer to `askAlone`: this node may go on alone. */
  | { readonly kind: 'granted' }
  /** The other node has gone on alone: this one must not speak any more. */
  | { readonly kind: 'fenced'; readonly reason: string }
  /** `epoch`: the one that it is about; a request about an epoch that is over is void. */
  | {
      readonly kind: 'checkpointRequested';
      readonly trigger: Exclude<RequestedTrigger, 'mode' | 'switchover'>;
      readonly epoch?: number;
    }
  | { readonly kind: 'periodChanged'; readonly period: PeriodSetting }
  | { readonly kind: 'modeChanged'; readonly mode: Mode }
  /** The secondary asks for the guest. */
  | { readonly kind: 'takeoverRequested' }
  /** The operator wants the guest to go on at the peer. */
  | { readonly kind: 'switchoverRequested' }
  /** The guest can't go on: QEMU died (`handover`) or the guest powered off (`guest-off`). */
  | { readonly kind: 'guestEnded'; readonly goodbye: GoodbyeKind; readonly reason: string }
  /** An image on this host can't be read, written or synced; the guest may stand still for it. */
  | { readonly kind: 'diskFailed'; readonly reason: string }
  | { readonly kind: 'stopRequested'; readonly reason: string };
