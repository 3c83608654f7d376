/** What a migration cost, for its operator. */

/** Pages that the guest had to wait for, and how long, microseconds. */
export interface FaultsOfMigration {
  readonly count: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** Once it is over. */
export interface MigrationFigures {
  /** From the command until the destination lacked nothing. */
  readonly totalMs: number;
  /** Pause to resume; null: not known, as the session broke in between. */
  readonly downtimeMs: number | null;
  /** Of pages, on the wire; disks not among them. */
  readonly sentBytes: number;
  /** Of a postcopy. */
  readonly faults: FaultsOfMigration | null;
}
