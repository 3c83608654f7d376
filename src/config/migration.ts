/**
 * What `colo migrate` asks of a node, and what a node tells of a migration. Bytes a second, bytes
 * and milliseconds as an operator reads them; the protocol's own units are in src/migration.
 */
import type { CommandResult } from './command-result.js';
import type { FaultsOfMigration } from './migration-figures.js';
import { type Address, choiceParser } from './values.js';

export const MIGRATION_METHODS = ['precopy', 'postcopy', 'hybrid'] as const;

/**
 * When pages move: all before the guest does, all after it, or one round before and the rest after.
 */
export type MigrationMethod = (typeof MIGRATION_METHODS)[number];

/** `auto`: pages are compressed while that makes the migration faster, as measured on the way. */
export const MIGRATION_COMPRESSIONS = ['auto', 'off'] as const;
export type MigrationCompression = (typeof MIGRATION_COMPRESSIONS)[number];
export const parseMigrationCompression = choiceParser(MIGRATION_COMPRESSIONS);

/** Of the time in which neither host executes the guest. */
export const DOWNTIME_LIMIT_US_DEFAULT = 100_000;
export const DOWNTIME_LIMIT_US_MIN = 1_000;
export const DOWNTIME_LIMIT_US_MAX = 60_000_000;

/** Below 1 MiB/s not even a guest that does nothing would ever be moved. */
export const BANDWIDTH_MIN = 1024 ** 2;
export const BANDWIDTH_MAX = 1024 ** 4;

/** How long a broken postcopy waits for its network before the source writes a backup file. */
export const RECOVER_TIMEOUT_US_DEFAULT = 60_000_000;
export const RECOVER_TIMEOUT_US_MIN = 1_000_000;
export const RECOVER_TIMEOUT_US_MAX = 24 * 3600 * 1_000_000;

export interface MigrateOptions {
  readonly to: Address;
  readonly method: MigrationMethod;
  /** Postcopy: pages that nobody has asked for are sent, too. */
  readonly background: boolean;
  /** Null: as fast as it goes. */
  readonly bytesPerSecondMax: number | null;
  readonly downtimeLimitUs: number;
  /** Precopy: slow the guest down if it writes faster than the network takes it. */
  readonly autoConverge: boolean;
  readonly compress: MigrationCompression;
  readonly recoverTimeoutUs: number;
}

/** A migration in numbers, of either side. */
export interface MigrationStatus {
  readonly direction: 'outgoing' | 'incoming';
  /** The other host. */
  readonly peer: string;
  readonly method: MigrationMethod;
  /** The core's own name of its state. */
  readonly state: string;
  /** Of precopy, from 1. */
  readonly round: number;
  /** Of RAM: moved so far, and to be moved as far as is known. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** On the wire. */
  readonly sentBytes: number;
  readonly bytesPerSecond: number;
  /** Null: not known, or not converging. */
  readonly remainingMs: number | null;
  /** How much of the time the guest is kept from running, per cent. */
  readonly throttlePercent: number;
  /** Pause to resume, once it has been switched over. */
  readonly downtimeMs: number | null;
  /** Postcopy: pages that the guest had to wait for, and how long. */
  readonly faults: FaultsOfMigration | null;
  /** What went wrong last; null if nothing. */
  readonly problem: string | null;
}

/** What of a migration a node can be asked in the role that it has; what is left out it can't. */
export interface MigrationControl {
  /** Moves the guest; resolves when it runs there, or goes on here. */
  migrate?(options: MigrateOptions): Promise<CommandResult>;
  /** Gives it up while the guest runs here; resolves when it is given up. */
  cancel?(): Promise<CommandResult>;
  /** A broken postcopy goes on by this address from now on; null: by the same. */
  recover?(to: Address | null): Promise<CommandResult>;
  /** The missing pages come from the source's backup file; resolves when they are there. */
  finish?(file: string): Promise<CommandResult>;
  /** The other host is known to be silent: the guest is this one's. Resolves when it is. */
  force?(): Promise<CommandResult>;
  /** The other host needs nothing of this one any more: it lets go. */
  release?(): Promise<CommandResult>;
}
