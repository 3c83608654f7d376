/** What the role of a destination is made of. */
import type { Configuration, NodeLogger } from '../config/index.js';
import type { Arrival, MigrationRecord, Speech } from '../guest/index.js';
import type { EpochReserve } from '../replication/index.js';

export interface DestinationRoleOptions {
  readonly configuration: Configuration;
  readonly log: NodeLogger;
  readonly arrival: Arrival;
  /** Undefined without a witness. */
  readonly speech: Speech | undefined;
  /** Learns the epochs that the source used. */
  readonly reserve: EpochReserve;
  /** What an earlier role or process of this host wrote down. */
  readonly record: MigrationRecord | undefined;
}
