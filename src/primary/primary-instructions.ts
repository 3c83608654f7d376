/** What the primary's core is told, and what it tells its shell to do. */
import type { Mode, PeriodSetting } from '../config/index.js';
import type { ProbeResult } from '../failover/index.js';
import type { GoodbyeKind } from '../replication/index.js';
import type { RequestedTrigger, Trigger } from './primary-state.js';

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
  /** `isDeaf`: that it hears nothing itself. */
  | { readonly kind: 'heard'; readonly isDeaf: boolean }
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
  /**
   * The operator wants the guest to go on without this secondary; `detach`: and without any, until
   * `attachRequested`. `stop`: the secondary's agent ends.
   */
  | { readonly kind: 'partingRequested'; readonly goodbye: 'detach' | 'stop' }
  | { readonly kind: 'attachRequested' }
  | { readonly kind: 'stopRequested'; readonly reason: string };

export type PrimaryOutput =
  | { readonly kind: 'connect' }
  | { readonly kind: 'probe' }
  /** Connect the session anew: the peer answers, but not there. */
  | { readonly kind: 'renew' }
  | { readonly kind: 'heartbeat'; readonly hears: boolean }
  /** Send everything written so far; answer with `syncRound`. `first`: start tracking. */
  | { readonly kind: 'syncRound'; readonly epoch: number; readonly first: boolean }
  | { readonly kind: 'presendRound'; readonly epoch: number }
  /** Pause, save, scan, copy, mark the streams' epoch edge, hold what follows, resume. */
  | {
      readonly kind: 'capture';
      readonly epoch: number;
      readonly trigger: Trigger;
      /** For the end record: the SVM executes in the next epoch. */
      readonly svmRuns: boolean;
    }
  /** Answer with `released` once it has left. */
  | { readonly kind: 'release'; readonly epoch: number }
  /** The SVM executes `epoch`: what it says in it is compared from now on. */
  | { readonly kind: 'startCompare'; readonly epoch: number }
  /** End the session; what is held stays held until `runAlone`. */
  | { readonly kind: 'endSession' }
  /** The session is over: release all that is held and hold nothing more. */
  | { readonly kind: 'runAlone'; readonly reason: string }
  /**
   * With a witness. The session is over and what is held stays held: ask to go on alone, until it
   * is `granted` or `fenced`.
   */
  | { readonly kind: 'askAlone'; readonly proof: boolean; readonly reason: string }
  /** After `askAlone`: release all that is held, and hold nothing more until the next edge. */
  | { readonly kind: 'open' }
  /** The secondary is about to get its first state: nobody but it has a right to go on alone. */
  | { readonly kind: 'protecting' }
  | { readonly kind: 'checkpointDone'; readonly epoch: number; readonly trigger: Trigger }
  | { readonly kind: 'checkpointFailed'; readonly reason: string }
  /** What `partingRequested` asked for, if it did, is done, or has become void. */
  | { readonly kind: 'parted' }
  /** From here on no frame leaves this node, whatever happens. Before any `yielded` or goodbye. */
  | { readonly kind: 'silence' }
  | { readonly kind: 'sendYielded' }
  | { readonly kind: 'sendGoodbye'; readonly goodbye: GoodbyeKind; readonly reason: string }
  /** The guest lives on at the peer: end it here and become its secondary. */
  | { readonly kind: 'demote'; readonly reason: string }
  | { readonly kind: 'exit'; readonly code: number; readonly reason: string };
