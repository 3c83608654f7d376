/** What a primary's role is made of. */
import type { Address, Configuration, NodeLogger } from '../config/index.js';
import type { Guest, LeftGuestRam, NodeIdentity, RoleWatch, Speech } from '../guest/index.js';
import type { EpochReserve, Policy } from '../replication/index.js';

export interface PrimaryRoleOptions {
  readonly configuration: Configuration;
  readonly log: NodeLogger;
  /** The guest, which speaks; this role stops it when it ends. */
  readonly guest: Guest;
  /** Of the failover that has made this host the primary. */
  readonly downtimeUs?: number | undefined;
  /** The epoch from whose end the guest went on then. */
  readonly continuedFrom?: number;
  readonly reserve: EpochReserve;
  readonly firstEpoch: number;
  readonly policy: Policy;
  readonly peer: Address;
  /** Where this node listens and which process it is, for the secondary to ask. */
  readonly identity: NodeIdentity;
  /** Undefined without a witness; else it has let this node go on alone. */
  readonly speech: Speech | undefined;
  readonly watch: RoleWatch;
  /** Gets the guest's memory if this host is to be the secondary next. */
  readonly leftRam: LeftGuestRam;
}
