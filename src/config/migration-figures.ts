/** What a migration took; a part of migration.ts. */

/** Postcopy: pages that the guest had to wait for, and how long. */
export interface FaultCounts {
  readonly count: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** What a migration took, once it is over. */
export interface MigrationFigures {
  /** From the command until the destination lacked nothing. */
  readonly totalMs: number;
  /** Pause to resume; null: not known, as the session broke in between. */
  readonly downtimeMs: number | null;
  /** Of pages, on the wire; disks not among them. */
  readonly sentBytes: number;
  readonly faults: FaultCounts | null;
}
