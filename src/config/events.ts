/**
 * What happens to a node, as an operator follows it by `colo events`: the types only. A node keeps
 * the last ones (src/node/event-ring.ts), src/cli carries them over its socket.
 */
import type { LastSync } from './last-sync.js';

/**
 * Where a node stands, in words that both roles share; `state` of the status says it in the role's
 * own. `alone`: the guest runs here and nobody follows; `fenced`: the other host went on alone.
 * `migrating`, `receiving`: the guest is being moved away from here, or here.
 */
export const NODE_PHASES = [
  'joining',
  'synchronising',
  'protected',
  'checkpointing',
  'failing-over',
  'alone',
  'fenced',
  'leaving',
  'migrating',
  'receiving',
] as const;

export type NodePhase = (typeof NODE_PHASES)[number];

/** What the guest, or its machine, did by itself. */
export type GuestNews = 'reset' | 'shutdown' | 'panic' | 'watchdog';

/** One thing that happened; `reason` is one sentence. Times are milliseconds. */
export type EventBody = { readonly reason: string } & (
  | { readonly kind: 'state'; readonly from: NodePhase | null; readonly to: NodePhase }
  /** This node took the guest over. `running`: it went on as it ran here, else at its checkpoint. */
  | {
      readonly kind: 'failover';
      readonly continuedFrom: 'running' | 'checkpoint';
      /** The last one that was committed. */
      readonly epoch: number;
      readonly downtimeMs: number | null;
    }
  | { readonly kind: 'checkpoint-failed'; readonly epoch: number }
  | {
      readonly kind: 'resync';
      readonly step: 'begin' | 'progress' | 'end';
      readonly doneBytes: number;
      readonly totalBytes: number;
      /** With `end`, if it has ended in protection. */
      readonly synced?: LastSync | undefined;
    }
  /** An image on this host can't be read, written or synced. */
  | { readonly kind: 'disk' }
  | { readonly kind: 'witness'; readonly state: 'lost' | 'regained' }
  | { readonly kind: 'peer'; readonly state: 'alive' | 'suspect' | 'lost' }
  | { readonly kind: 'guest'; readonly what: GuestNews }
  /** An operator changed something; with what came of it. */
  | { readonly kind: 'operator'; readonly command: string }
  /** Events before this one were forgotten before this reader asked for them. */
  | { readonly kind: 'lost'; readonly count: number }
);

/** An event in its place. */
export type NodeEvent = EventBody & {
  /** From 1, by one each, since the agent's start. */
  readonly sequence: number;
  /** Since 1970, microseconds. */
  readonly timeUs: number;
  /** Of the node, then. */
  readonly role: 'primary' | 'secondary';
};

/** Which events are asked for. */
export interface EventsQuery {
  /** Those behind this sequence number; null: all that are kept. */
  readonly after: number | null;
  /** How long to wait for the first of them, milliseconds. */
  readonly waitMs: number;
}

/** Some events; there may be more behind `next`, which is what to ask for then. */
export interface EventsAnswer {
  readonly events: readonly NodeEvent[];
  readonly next: number;
}

/** A role at one moment, as its events are made from. */
export interface RoleView {
  readonly role: 'primary' | 'secondary';
  readonly phase: NodePhase;
  /** Why it is in that phase, or in its last one. */
  readonly reason: string;
  readonly peer: 'none' | 'alive' | 'suspect' | 'lost';
  readonly epoch: number;
  /** Of a primary: see NodeStatus. */
  readonly lastSync?: LastSync | null;
}
