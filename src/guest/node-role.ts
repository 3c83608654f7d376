/**
 * One role of a node, from the moment it takes it to the moment it gives it up. src/node holds one
 * at a time and passes on what the listener and the operator bring.
 */
import type {
  Address,
  CommandResult,
  EventBody,
  MigrateOptions,
  NodeExit,
  RoleControl,
} from '../config/index.js';
import type { Policy } from '../replication/index.js';
import type {
  AcceptDecision,
  Frame,
  LinkSecurity,
  ProbeAnswer,
  Session,
} from '../transport/index.js';
import type { Guest } from './guest.js';

/** Why a role is over. What it used is released, but for what the next role goes on with. */
export type RoleEnd =
  /** The node ends with it. */
  | { readonly kind: 'left'; readonly exit: NodeExit }
  /** The guest lives on at the peer: this node is its secondary from now on. */
  | { readonly kind: 'demoted'; readonly reason: string }
  | Promotion
  | Departure
  | Arrival;

/** The guest speaks from here; who goes on with it calls `release` and then sets its hooks. */
export interface Promotion {
  readonly kind: 'promoted';
  readonly guest: Guest;
  /** What it continues from. */
  readonly epoch: number;
  /** As the lost primary ran the pair. */
  readonly policy: Policy;
  /** Where that one listened. */
  readonly peer: Address;
  readonly downtimeUs: number | undefined;
  /** Ends the role that has promoted it; nothing of the guest is told to that one any more. */
  release(): void;
}

/** The operator moves the guest to another host; it goes on speaking here for the time being. */
export interface Departure {
  readonly kind: 'departing';
  readonly guest: Guest;
  /** The one that the guest runs. */
  readonly epoch: number;
  readonly policy: Policy;
  /** The other host of the pair, not the destination. */
  readonly peer: Address;
  readonly options: MigrateOptions;
  /** Tells the operator what came of it. */
  readonly answer: (result: CommandResult) => void;
}

/** A host wants to move its guest here. */
export interface Arrival {
  readonly kind: 'arriving';
  readonly session: Session;
  /** What it has sent by now. */
  readonly hello: Frame;
}

/** By which a host that asks knows this role of this process. */
export interface NodeIdentity {
  /** Where it listens. */
  readonly port: number;
  /** INSTANCE_BYTES, random. */
  readonly instance: Buffer;
  /** What protects every connection between the hosts; read for each, as it may be replaced. */
  readonly security: LinkSecurity;
  /** A session was made with this peer. */
  readonly met: (session: Session) => void;
}

/** Who is told what happens to a role. */
export interface RoleWatch {
  /** Its state may have changed. */
  stepped(): void;
  /** Something happened that its state does not show. */
  happened(event: EventBody): void;
}

/** A role as the node sees it. */
export interface NodeRole extends RoleControl {
  /** What a host that asks is told of this one. */
  readonly probeAnswer: ProbeAnswer;
  /** A peer wants to be the primary for this node. */
  accept(remoteAddress: string): AcceptDecision;
  /** Right after `accept` said yes. */
  onSession(session: Session): void;
  /** Leaves in order; `ended` tells when it is done. Idempotent. */
  stop(reason: string): void;
  /** Resolves once, never rejects. */
  readonly ended: Promise<RoleEnd>;
}
