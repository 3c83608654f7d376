/** The secondary's answer to `colo status`; after a failover it is the primary's. */
import type { Configuration, NodePhase, NodeStatus, PeerState, RoleView } from '../config/index.js';
import { disksStatus, type Guest, type Speech } from '../guest/index.js';
import type { Hello } from '../replication/index.js';
import type { SecondaryCore } from './secondary-core.js';

/** What the status is made of. */
export interface StatusSources {
  readonly configuration: Configuration;
  readonly core: SecondaryCore;
  readonly hello: Hello | undefined;
  readonly guest: Guest | undefined;
  readonly speech: Speech | undefined;
  readonly remoteAddress: string | undefined;
  readonly receivedBytes: number;
  readonly applied: number;
  readonly downtimeUs: number | undefined;
  readonly verified: number;
  readonly lastFailure: string | null;
  readonly startedAtUs: number;
  readonly nowUs: number;
}

/** Puts it together. */
export function secondaryStatus(sources: StatusSources): NodeStatus {
  const { configuration, core, guest, hello, nowUs } = sources;
  const description = guest?.emulator.description;
  const heardAtUs = core.peerHeardAtUs;
  return {
    vm: configuration.vm,
    host: configuration.host,
    role: core.state.kind === 'active' ? 'primary' : 'secondary',
    phase: phaseOf(core),
    state: core.state.kind,
    mode: core.svmRuns ? 'colo' : 'checkpoint',
    peer: {
      address: sources.remoteAddress ?? '',
      state: peerState(core),
      lastHeardMs: heardAtUs === undefined ? null : Math.round((nowUs - heardAtUs) / 1000),
    },
    epoch: core.committedEpoch ?? hello?.epoch ?? 0,
    committedEpoch: core.committedEpoch ?? null,
    periodMs: 0,
    checkpoints: { total: sources.applied, byTrigger: {}, failed: 0 },
    pauseMs: { last: null, median: null, p99: null },
    dirtyPages: { last: null, inPause: null },
    bytesSent: 0,
    held: { frames: 0, bytes: 0 },
    compare: null,
    downtimeMs: sources.downtimeUs === undefined ? null : sources.downtimeUs / 1000,
    dirtyTracker: description?.dirtyTracker ?? 'none',
    accelerator: description?.accelerator ?? 'none',
    qemuVersion: description?.qemuVersion ?? 'none',
    sync: null,
    lastSync: null,
    verify: null,
    disks: disksStatus(guest?.definition.disks ?? [], guest?.disks.figures),
    diskMemoryBytes: guest?.disks.figures.memoryBytes ?? 0,
    uptimeMs: Math.round((nowUs - sources.startedAtUs) / 1000),
    verified: sources.verified,
    speech: sources.speech?.status ?? null,
    migration: null,
    security: null,
    lastFailure: sources.lastFailure,
  };
}

/** As its events are made from; `lastFailure` is what ended the last session. */
export function secondaryView(core: SecondaryCore, lastFailure: string | null): RoleView {
  const { state } = core;
  const epoch = core.committedEpoch ?? 0;
  return {
    role: state.kind === 'active' ? 'primary' : 'secondary',
    phase: phaseOf(core),
    reason: reasonOf(core, lastFailure),
    peer: peerView(core),
    epoch,
  };

  function peerView({ peerSuspected, peerHeardAtUs }: SecondaryCore): RoleView['peer'] {
    const hasSession =
      state.kind === 'synchronising' || (state.kind === 'standby' && state.next === undefined);
    if (hasSession) return peerSuspected ? 'suspect' : 'alive';
    return peerHeardAtUs === undefined ? 'none' : 'lost';
  }
}

function phaseOf({ state }: SecondaryCore): NodePhase {
  switch (state.kind) {
    case 'waiting':
      return 'joining';
    case 'synchronising':
      return 'synchronising';
    case 'standby':
      if (state.next !== undefined) return 'failing-over';
      return state.applying ? 'checkpointing' : 'protected';
    case 'waitingForOperator':
    case 'claiming':
    case 'promoting':
      return 'failing-over';
    case 'active':
      return 'alone';
    case 'left':
      return 'leaving';
  }
}

function reasonOf({ state }: SecondaryCore, lastFailure: string | null): string {
  switch (state.kind) {
    case 'waiting':
      return lastFailure ?? 'It waits for a primary';
    case 'synchronising':
      return 'A primary is connected';
    case 'standby':
      return state.next === undefined ? 'A failover would lose nothing' : state.reason;
    case 'waitingForOperator':
      return 'The primary is lost, and "colo failover" decides';
    case 'promoting':
      return 'This node takes the guest over';
    case 'active':
      return 'The guest runs here';
    case 'claiming':
    case 'left':
      return state.reason;
  }
}

function peerState(core: SecondaryCore): PeerState {
  switch (core.state.kind) {
    case 'synchronising':
    case 'standby':
      return core.peerSuspected ? 'lost' : 'connected';
    case 'waiting':
      return core.peerHeardAtUs === undefined ? 'none' : 'lost';
    default:
      return 'lost';
  }
}
