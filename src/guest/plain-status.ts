/** What every node tells of itself, of one that does nothing: roles fill in what they know. */
import {
  type Configuration,
  DEFAULT_PERIOD_US,
  formatAddress,
  type NodeStatus,
} from '../config/index.js';

/** `uptimeUs`: of the role. */
export function plainStatus(
  configuration: Configuration,
  known: Partial<NodeStatus> & Pick<NodeStatus, 'phase' | 'state'> & { readonly uptimeUs: number },
): NodeStatus {
  const { vm, host, peer, role } = configuration;
  const mode = configuration.role === 'primary' ? configuration.mode : 'colo';
  const { uptimeUs, ...rest } = known;
  return {
    vm,
    host,
    role,
    mode,
    peer: {
      address: peer === undefined ? '' : formatAddress(peer),
      state: 'none',
      lastHeardMs: null,
    },
    epoch: 0,
    committedEpoch: null,
    periodMs: DEFAULT_PERIOD_US[mode] / 1000,
    checkpoints: { total: 0, byTrigger: {}, failed: 0 },
    pauseMs: { last: null, median: null, p99: null },
    dirtyPages: { last: null, inPause: null },
    bytesSent: 0,
    held: { frames: 0, bytes: 0 },
    compare: null,
    downtimeMs: null,
    dirtyTracker: 'none',
    accelerator: 'none',
    qemuVersion: 'none',
    sync: null,
    lastSync: null,
    verify: null,
    disks: [],
    diskMemoryBytes: 0,
    uptimeMs: Math.round(uptimeUs / 1000),
    verified: 0,
    speech: null,
    security: null,
    migration: null,
    lastFailure: null,
    ...rest,
  };
}

/** The same, and what can be said of a guest that this node has. */
export function guestFacts(guest: {
  readonly emulator: {
    readonly description: Pick<NodeStatus, 'dirtyTracker' | 'accelerator' | 'qemuVersion'>;
  };
  readonly disks: { readonly figures: { readonly memoryBytes: number } };
}): Pick<NodeStatus, 'dirtyTracker' | 'accelerator' | 'qemuVersion' | 'diskMemoryBytes'> {
  const { dirtyTracker, accelerator, qemuVersion } = guest.emulator.description;
  const { memoryBytes: diskMemoryBytes } = guest.disks.figures;
  return { dirtyTracker, accelerator, qemuVersion, diskMemoryBytes };
}
