/** The primary's answer to `colo status`. */
import {
  type Address,
  type Configuration,
  formatAddress,
  type NodePhase,
  type NodeStatus,
  type PeerState,
  type RoleView,
} from '../config/index.js';
import { disksStatus, type Guest, type Speech } from '../guest/index.js';
import type { PrimaryCore } from './primary-core.js';
import type { SyncProgress } from './replicator-shell.js';
import type { CheckpointStatistics } from './statistics.js';

/** What the status is made of. */
export interface StatusSources {
  readonly configuration: Configuration;
  readonly peer: Address;
  readonly core: PrimaryCore;
  readonly guest: Guest;
  readonly speech: Speech | undefined;
  readonly downtimeUs: number | undefined;
  readonly statistics: CheckpointStatistics;
  readonly committedEpoch: number | null;
  readonly bytesSent: number;
  readonly sync: SyncProgress | null;
  readonly lastSync: NodeStatus['lastSync'];
  readonly lastFailure: string | null;
  readonly startedAtUs: number;
  readonly nowUs: number;
}

/** Puts it together. */
export function primaryStatus(sources: StatusSources): NodeStatus {
  const { configuration, core, guest, statistics, nowUs } = sources;
  const { description } = guest.emulator;
  const { nics, compare } = guest.network.stats;
  const heardAtUs = core.peerHeardAtUs;
  return {
    vm: configuration.vm,
    host: configuration.host,
    role: 'primary',
    phase: phaseOf(core),
    state: stateName(core),
    mode: core.pace.mode,
    peer: {
      address: formatAddress(sources.peer),
      state: peerState(core),
      lastHeardMs: heardAtUs === undefined ? null : Math.round((nowUs - heardAtUs) / 1000),
    },
    epoch: core.epoch,
    committedEpoch: sources.committedEpoch,
    periodMs: core.pace.periodUs / 1000,
    checkpoints: {
      total: statistics.total,
      byTrigger: { ...statistics.byTrigger },
      failed: statistics.failed,
    },
    pauseMs: {
      last: toMs(statistics.last?.pauseUs),
      median: toMs(statistics.pauseQuantileUs(0.5)),
      p99: toMs(statistics.pauseQuantileUs(0.99)),
    },
    dirtyPages: {
      last: statistics.last?.pages ?? null,
      inPause: statistics.last?.pagesInPause ?? null,
    },
    bytesSent: sources.bytesSent,
    held: {
      frames: nics.reduce((sum, nic) => sum + nic.heldFrames, 0),
      bytes: nics.reduce((sum, nic) => sum + nic.heldBytes, 0),
    },
    compare: {
      running: compare.comparing,
      flows: compare.flows,
      confirmedFrames: compare.confirmedFrames,
      divergences: compare.divergences,
      timeouts: compare.timeouts,
    },
    downtimeMs: toMs(sources.downtimeUs),
    dirtyTracker: description.dirtyTracker,
    accelerator: description.accelerator,
    qemuVersion: description.qemuVersion,
    sync: syncStatus(sources),
    lastSync: sources.lastSync,
    verify: verifyStatus(guest),
    disks: disksStatus(guest.definition.disks, guest.disks.figures),
    diskMemoryBytes: guest.disks.figures.memoryBytes,
    uptimeMs: Math.round((nowUs - sources.startedAtUs) / 1000),
    verified: 0,
    speech: sources.speech?.status ?? null,
    migration: null,
    security: null,
    lastFailure: sources.lastFailure,
  };
}

/** As its events are made from; `lastFailure` is why there is no secondary. */
export function primaryView(
  core: PrimaryCore,
  lastFailure: string | null,
  lastSync: NodeStatus['lastSync'],
): RoleView {
  const { state } = core;
  const reason =
    state.kind === 'session'
      ? state.committed
        ? 'The secondary has all that the clients have seen'
        : 'A secondary is connected'
      : state.kind === 'connecting'
        ? (lastFailure ?? 'The guest runs here')
        : state.reason;
  const { epoch } = core;
  const peer = peerView(core);
  return { role: 'primary', phase: phaseOf(core), reason, peer, epoch, lastSync };
}

function phaseOf({ state }: PrimaryCore): NodePhase {
  switch (state.kind) {
    case 'session':
      if (!state.committed) return 'synchronising';
      return state.phase.kind === 'running' ? 'protected' : 'checkpointing';
    case 'alone':
    case 'connecting':
      return 'alone';
    case 'left':
      return 'leaving';
  }
}

function peerView(core: PrimaryCore): RoleView['peer'] {
  if (core.state.kind === 'session') return core.peerSuspected ? 'suspect' : 'alive';
  return core.peerHeardAtUs === undefined ? 'none' : 'lost';
}

function syncStatus({ sync, guest }: StatusSources): NodeStatus['sync'] {
  if (sync === null) return null;
  const { figures } = guest.disks;
  const disks = guest.definition.disks.flatMap(({ name }, index) => {
    const resync = figures.disks[index]?.resync;
    return resync === undefined ? [] : [{ name, ...resync, remainingS: resync.remainingS ?? null }];
  });
  const sentBytes = disks.reduce((sum, disk) => sum + disk.sentBytes, 0);
  const leftBytes = disks.reduce((sum, disk) => sum + disk.leftBytes, 0);
  const { phase } = sync;
  const doneBytes = sync.doneBytes + sentBytes;
  return { phase, doneBytes, totalBytes: sync.totalBytes + sentBytes + leftBytes, disks };
}

function verifyStatus(guest: Guest): NodeStatus['verify'] {
  const { verifying } = guest.disks.figures;
  if (verifying === undefined) return null;
  const { compared, clusters, differing } = verifying;
  const disk = guest.definition.disks[verifying.disk]?.name ?? '';
  return { disk, compared, clusters, differing };
}

function stateName(core: PrimaryCore): string {
  if (core.isProtected) return 'protected';
  if (core.state.kind === 'alone' && core.isDetached) return 'detached';
  return core.state.kind === 'session' ? 'synchronising' : core.state.kind;
}

function peerState(core: PrimaryCore): PeerState {
  switch (core.state.kind) {
    case 'session':
      return core.isProtected || !core.state.committed ? 'connected' : 'lost';
    case 'connecting':
      return 'connecting';
    case 'alone':
    case 'left':
      return core.peerHeardAtUs === undefined ? 'none' : 'lost';
  }
}

function toMs(us: number | undefined): number | null {
  return us === undefined ? null : us / 1000;
}
