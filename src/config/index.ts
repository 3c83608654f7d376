/**
 * What an agent is told to do, and what it tells: pure, usable by every folder above src/lib.
 *
 * arguments and file -> settings.ts (text with its place) -> keys.ts (grammar of each key, from
 * values.ts, duration.ts, devices.ts) -> resolve.ts (defaults, checks between keys) ->
 * configuration.ts (the type that the nodes take). show.ts turns it into words again; problem.ts
 * is how anything wrong is told. status.ts is what a running node answers its operator, events.ts
 * what it tells him, node.ts how a daemon starts one.
 *
 * Bad input of any kind ends in one `ConfigurationError` that lists every problem, one line each.
 */
export type { CommandResult } from './command-result.js';
export type {
  CommonConfiguration,
  Configuration,
  MachineSettings,
  NicPlace,
  PrimaryConfiguration,
  SecondaryConfiguration,
  SecuritySettings,
} from './configuration.js';
export {
  type DiskFormat,
  type DiskSetting,
  defaultMac,
  defaultTap,
  type NicSetting,
} from './devices.js';
export { formatDuration, parseDuration } from './duration.js';
export {
  type EventBody,
  type EventsAnswer,
  type EventsQuery,
  type GuestNews,
  NODE_PHASES,
  type NodeEvent,
  type NodePhase,
  type RoleView,
} from './events.js';
export {
  KEY_NAMES,
  type Key,
  type KeyDefinition,
  keyDefinition,
  PKI_DIR,
  type Role,
  type TransportSecurity,
} from './keys.js';
export type { LastSync } from './last-sync.js';
export {
  CAPTURE_BYTES_DEFAULT,
  CAPTURE_BYTES_MAX,
  CAPTURE_BYTES_MIN,
  CAPTURE_DURATION_US_DEFAULT,
  CAPTURE_DURATION_US_MAX,
  CAPTURE_DURATION_US_MIN,
  COMPARE_TIMEOUT_US_DEFAULT,
  COMPARE_TIMEOUT_US_MAX,
  COMPARE_TIMEOUT_US_MIN,
  CONFIG_FILE_BYTES_MAX,
  DISKS_MAX,
  EXPIRY_WARNING_DAYS,
  NICS_MAX,
  PERIOD_US_MAX,
  PERIOD_US_MIN,
  SOCKET_PATH_BYTES_MAX,
} from './limits.js';
export {
  examineLinkSecurity,
  type LoadedSecurity,
  loadLinkSecurity,
  type SecurityFinding,
  type SecurityPlace,
} from './link-security-shell.js';
export {
  BANDWIDTH_MAX,
  BANDWIDTH_MIN,
  DOWNTIME_LIMIT_US_DEFAULT,
  DOWNTIME_LIMIT_US_MAX,
  DOWNTIME_LIMIT_US_MIN,
  MIGRATION_COMPRESSIONS,
  MIGRATION_METHODS,
  type MigrateOptions,
  type MigrationCompression,
  type MigrationControl,
  type MigrationMethod,
  type MigrationStatus,
  parseMigrationCompression,
  RECOVER_TIMEOUT_US_DEFAULT,
  RECOVER_TIMEOUT_US_MAX,
  RECOVER_TIMEOUT_US_MIN,
} from './migration.js';
export type { FaultsOfMigration, MigrationFigures } from './migration-figures.js';
export {
  DEFAULT_PERIOD_US,
  formatPeriod,
  GUEST_PANIC_ACTIONS,
  type GuestPanicAction,
  MODES,
  type Mode,
  type PeriodSetting,
  parsePeriod,
} from './mode.js';
export type { LogContext, NodeExit, NodeLogger, RunningNode, StartNode } from './node.js';
export { bootFiles, diskPlace, type NicConnection, nicConnection } from './places.js';
export { ConfigurationError, type Problem, quote, ValueError } from './problem.js';
export { type ConfigurationSource, defaultConfigFile, resolveConfiguration } from './resolve.js';
export { type Invocation, readArguments, readSettingsFile, type Setting } from './settings.js';
export { formatConfiguration, formatHelp } from './show.js';
export type {
  CaptureOptions,
  CertificateStatus,
  CompareStatus,
  DiskStatus,
  DiskSyncStatus,
  NodeControl,
  NodeStatus,
  PeerState,
  RoleControl,
  SecurityStatus,
  SpeechStatus,
  VerifiedDisk,
  VerifyAnswer,
  VerifyOptions,
} from './status.js';
export {
  type Address,
  formatAddress,
  formatMemory,
  integerParser,
  parseAddress,
  parseName,
  parsePeerName,
  parseSize,
} from './values.js';
export {
  formatWitness,
  type HeartbeatPath,
  parseWitness,
  type WitnessSetting,
} from './witness.js';
