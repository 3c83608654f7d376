/**
 * What a running node tells and takes over its control socket. The node classes implement
 * `NodeControl`; src/cli carries it over the socket and prints it.
 */
import type { CommandResult } from './command-result.js';
import type { EventsAnswer, EventsQuery, NodePhase, RoleView } from './events.js';
import type { LastSync } from './last-sync.js';
import type { MigrationControl, MigrationStatus } from './migration.js';
import type { Mode, PeriodSetting } from './mode.js';

/** What `colo capture` asks of a node. */
export interface CaptureOptions {
  /** Absolute; made if missing. Files in it are never overwritten. */
  readonly dir: string;
  readonly durationUs: number;
  /** Which of the guest's NICs, from 0. */
  readonly nic: number;
  /** Of all files together. */
  readonly bytesMax: number;
}

/** What `colo verify` asks of a node. */
export interface VerifyOptions {
  /** Null: each disk that is not read-only. */
  readonly disk: string | null;
  readonly repair: boolean;
}

/** What `colo verify` found of one disk; counts of clusters of 64 KiB unless said otherwise. */
export interface VerifiedDisk {
  readonly name: string;
  readonly clusters: number;
  readonly differing: number;
  /** Where: whole clusters, bytes. The first ones only. */
  readonly ranges: readonly { readonly offset: number; readonly length: number }[];
  /** Written again and again while it was looked at. */
  readonly notCompared: number;
  /** Bytes. */
  readonly repairedBytes: number;
  /** Still different at the end. */
  readonly remaining: number;
}

export type VerifyAnswer =
  | { readonly ok: true; readonly disks: readonly VerifiedDisk[] }
  | { readonly ok: false; readonly code: string; readonly reason: string };

/** What a node does for its operator in the role that it has. */
export interface RoleControl {
  status(): NodeStatus;
  /** Makes a secondary the primary. `force` also while the peer still answers. */
  failover(options: { force: boolean }): Promise<CommandResult>;
  /** Lets the hosts change their roles; resolves when they have. */
  switchover(): Promise<CommandResult>;
  setPeriod(period: PeriodSetting): CommandResult;
  /** Resolves when output leaves by the new rule, or the change is refused. */
  setMode(mode: Mode): Promise<CommandResult>;
  /** Resolves when the capture has ended and its files are whole, or it was refused. */
  capture(options: CaptureOptions): Promise<CommandResult>;
  /** Resolves when the checkpoint it asked for is committed or refused. */
  checkpoint(): Promise<CommandResult>;
  /** Resolves when the disks are compared, and repaired if asked for, or it was refused. */
  verify(options: VerifyOptions): Promise<VerifyAnswer>;
  /** The guest goes on without a secondary, until `attach`; resolves when it does. */
  detach(): Promise<CommandResult>;
  attach(): Promise<CommandResult>;
  /** Ends the agent of the secondary in order; resolves when that one has let go. */
  stopPeer(): Promise<CommandResult>;
  /** Undefined in a role that has nothing to do with migration. */
  readonly migration?: MigrationControl | undefined;
  /** What its events are made from; cheap. */
  readonly view: RoleView;
}

/** A running node, as its control socket sees it. */
export interface NodeControl extends Omit<RoleControl, 'view'> {
  /** Ends the node in order; resolves when it is about to end. */
  stop(): Promise<CommandResult>;
  /** Resolves at once when there are such events, else with the next one or after `waitMs`. */
  events(query: EventsQuery): Promise<EventsAnswer>;
}

/** Where the link to the other host stands. */
export type PeerState = 'connected' | 'connecting' | 'lost' | 'none';

/** One guest disk in numbers. */
export interface DiskStatus {
  name: string;
  sizeBytes: number;
  /** Written in epochs that are not committed yet. */
  bufferedBytes: number;
  /** The SVM's own writes since the last checkpoint; 0 on a primary. */
  overlayBytes: number;
  /** Whose data the image is; null: read-only, or nobody has said yet. */
  generation: { id: string; epoch: number; state: string } | null;
}

/** How far a disk's synchronisation is. */
export interface DiskSyncStatus {
  name: string;
  /** `waiting`, `comparing`, `sending`, `following`. */
  phase: string;
  /** Clusters of 64 KiB that may differ; of these, compared, and found different. */
  candidates: number;
  compared: number;
  differing: number;
  sentBytes: number;
  leftBytes: number;
  /** Whole seconds; null: not known yet. */
  remainingS: number | null;
}

/** What mode colo has done; frames are the guest's, of all NICs. */
export interface CompareStatus {
  /** Now: false in mode checkpoint, unprotected, and between a pause and the end of the apply. */
  running: boolean;
  flows: number;
  /** Left at once, because both guests had said it. */
  confirmedFrames: number;
  divergences: number;
  timeouts: number;
}

/** The right to speak, of a node with a witness; a fraction of a second old. */
export interface SpeechStatus {
  /** As configured. */
  witness: string;
  /** The permit's own name of its state; see docs/witness.md. */
  state: string;
  /** The witness's grant is held. */
  granted: boolean;
  /** What is left of the right to speak; 0 without one. */
  leaseMs: number;
  /** The newest alone token that is known. */
  token: number;
  /** By heartbeats: alive, suspect or lost, with the reason. */
  peer: string;
  /** Null: not asked. */
  gateway: 'reachable' | 'unreachable' | null;
  /** Why the witness last gave no grant; null if it did. */
  trouble: string | null;
}

/** One certificate, as of now. */
export interface CertificateStatus {
  /** Host names and addresses that it is for. */
  readonly names: readonly string[];
  /** ISO 8601. */
  readonly validUntil: string;
  /** Whole days; negative once it has expired. */
  readonly daysLeft: number;
}

/** How the links between the hosts are protected. */
export interface SecurityStatus {
  readonly transport: 'tls' | 'plain';
  /** Ours; null without TLS. */
  readonly certificate: CertificateStatus | null;
  /** Of the last peer that a session was made with. */
  readonly peerCertificate: CertificateStatus | null;
}

/** Everything an operator can ask of a node. Times are milliseconds: this is the CLI's side. */
export interface NodeStatus {
  vm: string;
  host: string;
  role: 'primary' | 'secondary';
  /** The same words in both roles. */
  phase: NodePhase;
  /** The state machine's own name of its state. */
  state: string;
  mode: Mode;
  peer: { address: string; state: PeerState; lastHeardMs: number | null };
  epoch: number;
  committedEpoch: number | null;
  periodMs: number;
  checkpoints: { total: number; byTrigger: Record<string, number>; failed: number };
  pauseMs: { last: number | null; median: number | null; p99: number | null };
  /** Of one checkpoint: shipped in all, and copied while the guest was paused. */
  dirtyPages: { last: number | null; inPause: number | null };
  bytesSent: number;
  held: { frames: number; bytes: number };
  /** The comparison of both guests' output since the agent's start; null on a secondary. */
  compare: CompareStatus | null;
  /** Of the last failover, pause to resume. */
  downtimeMs: number | null;
  dirtyTracker: string;
  accelerator: string;
  qemuVersion: string;
  /** Of the running synchronisation; bytes of RAM and of what is known to differ of the disks. */
  sync: {
    phase: string;
    doneBytes: number;
    totalBytes: number;
    disks: DiskSyncStatus[];
  } | null;
  /** Of a primary: the last synchronisation that ended in protection. */
  lastSync: LastSync | null;
  /** Of the running `colo verify`; clusters of 64 KiB. */
  verify: { disk: string; compared: number; clusters: number; differing: number } | null;
  disks: DiskStatus[];
  /** Of the thread that serves the disks: its heap and its buffers. */
  diskMemoryBytes: number;
  uptimeMs: number;
  /** Checkpoints whose RAM digests were compared and equal (`verify`); the secondary counts. */
  verified: number;
  /** Null without a witness. */
  speech: SpeechStatus | null;
  /** Of a migration that is under way, or was the last. */
  migration: MigrationStatus | null;
  /** Null: a role alone does not know; its node does. */
  security: SecurityStatus | null;
  lastFailure: string | null;
}
