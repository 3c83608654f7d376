/**
/**
 * The guest's parts that live in threads of their own, whichever role the node has: they are made
 * once per guest, and change their role in place when the node does.
 *
 * network/ is the guest's NICs: packets, mirror, comparison, gate, translation. Reading order:
 *
 *     limits.ts                 every bound
 *     guest-network-shell.ts    GuestNetwork: what the node calls, in the main thread
 *     network-thread-shell.ts   the thread's door
 *     network-shell.ts          the NICs and the roles that work on them; the change of role
 *     guest-nic.ts              one NIC with its translations
 *     network-stats.ts          what is told of them
 *     source-role-shell.ts      this guest serves the clients: gate, comparer, mirror
 *     target-role-shell.ts      this guest is made equal to another: inbound log, delivery, output
 *
 * disks/ has all its disks: disks-client-shell.ts is what the nodes see of them,
 * guest-disks-shell.ts is what runs in the thread, disks-thread-shell.ts its door,
 * disk-source-shell.ts and disk-target-shell.ts the two ends of a session's disk stream.
 *
 * faults/ has the pages that a guest waits for which was moved before they were: a thread at each
 * end of the faults link. fault-target-shell.ts is what the destination calls, its thread's door is
 * fault-target-thread-shell.ts, and what that does fault-target-lane-shell.ts; the source has the
 * same three. rehearsal-shell.ts lets both ends work before there is a guest.
 *
 * launch-guest-shell.ts puts them and QEMU together; guest.ts is what comes of it,
 * received-guest-shell.ts launches what another host's hello asks for, shared-disks.ts tells which
 * disks need not be moved,
 * node-role.ts what the two roles that can have it have in common, speech-shell.ts their right to
 * speak, kept-ram-shell.ts where the RAM of a guest that has left is kept, left-ram-shell.ts the
 * RAM of one that this host may soon be the secondary of, hidden-pages-shell.ts frees what one that
 * goes on for good no longer sees.
 *
 * Held here: the order of calls is the order of their effects (transport/worker-client.ts), and a
 * promise that a part returns resolves after the effect (I6). Invariant I1 is held in
 * proxy/output-gate.ts and proxy/compare.
 */

export { DiskRetry } from './disks/disk-retry-shell.js';
export type { VerifyReport } from './disks/disk-verification-shell.js';
export {
  type DiskPlace,
  GuestDisks,
  type GuestDisksOptions,
} from './disks/disks-client-shell.js';
export { disksStatus } from './disks/disks-status.js';
export { FaultSource } from './faults/fault-source-shell.js';
export type { FaultReport } from './faults/fault-target-lane-shell.js';
export { FaultTarget, type FaultTargetOptions } from './faults/fault-target-shell.js';
export { Rehearsal } from './faults/rehearsal-shell.js';
export type { Guest, GuestHooks, GuestPast } from './guest.js';
export { guestHello, type HelloParts } from './guest-hello.js';
export { releaseHiddenPages } from './hidden-pages-shell.js';
export { type KeptRamPlace, keptRamStore, roomForKeptRam, sweepKeptRam } from './kept-ram-shell.js';
export { type LaunchOptions, launchGuest } from './launch-guest-shell.js';
export { LeftGuestRam, type LeftRamBounds } from './left-ram-shell.js';
export {
  hasDeparted,
  type MigrationFact,
  type MigrationRecord,
  readMigrationRecord,
  removeMigrationRecord,
  writeMigrationRecord,
} from './migration-record-shell.js';
export { MovingRole } from './moving-role.js';
export { GuestNetwork, type GuestNetworkOptions } from './network/guest-network-shell.js';
export type { NicPlace } from './network/guest-nic.js';
export type { SessionRole } from './network/network-shell.js';
export type { CompareStats, NetworkStats } from './network/network-stats.js';
export type { CompareReason } from './network/source-role-shell.js';
export type {
  Arrival,
  Departure,
  NodeIdentity,
  NodeRole,
  Promotion,
  RoleEnd,
  RoleWatch,
} from './node-role.js';
export { guestFacts, plainStatus } from './plain-status.js';
export {
  bootFileDifferences,
  type ConfiguredDifference,
  checkedDefinition,
  configuredDifferences,
  IMAGE_AT_STAKE,
  PeerDiffersError,
  prepareForGuest,
  type ReceivedGuest,
  type ReceiveOptions,
  receiveGuest,
} from './received-guest-shell.js';
export { SECTION_FRAME, SessionChannel, sourceSectionOf } from './session-channel-shell.js';
export { sharedDisks } from './shared-disks.js';
export { checkSpeech, Speech, type SpeechOptions } from './speech-shell.js';
