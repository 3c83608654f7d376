/** The secondary's answer to `colo status`; after a failover it is the primary's. */
import type { Configuration, NodeStatus, PeerState } from '../config/index.js';
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
    verify: null,
    disks: disksStatus(guest?.definition.disks ?? [], guest?.disks.figures),
    diskMemoryBytes: guest?.disks.figures.memoryBytes ?? 0,
    uptimeMs: Math.round((nowUs - sources.startedAtUs) / 1000),
    verified: sources.verified,
    speech: sources.speech?.status ?? null,
    security: null,
    lastFailure: sources.lastFailure,
  };
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
