/** A guest on this host, in whichever role: what the roles of a node hand on to each other. */
import type { Emulator, ResolvedMachineDefinition } from '../emulator/index.js';
import type { StagedDisk } from './disks/disk-target-shell.js';
import type { GuestDisks } from './disks/disks-client-shell.js';
import type { GuestNetwork } from './network/guest-network-shell.js';
import type { CompareReason } from './network/source-role-shell.js';

export interface Guest {
  readonly definition: ResolvedMachineDefinition;
  readonly emulator: Emulator;
  readonly disks: GuestDisks;
  readonly network: GuestNetwork;
  /** Of the files that it was booted from; null without one. */
  readonly kernelSha256: string | null;
  readonly initrdSha256: string | null;
  /** The role that has the guest sets them. */
  readonly hooks: GuestHooks;
  readonly past: GuestPast;
  /** Kills the guest and releases everything. Idempotent. */
  stop(): Promise<void>;
}

/** Where it comes from; the role that knows sets it. */
export interface GuestPast {
  /**
   * The migration by which it came, all of its pages first: the RAM file holds, unchanged, what the
   * guest's RAM was at that switchover, and each page that differs is one of `scanPrivate`.
   */
  arrivedBy?: string;
  /** Its RAM file began as that of a guest that was here before, not empty. */
  hasLeftRam?: boolean;
}

/** What the guest's threads tell the role that has it. */
export interface GuestHooks {
  /** As source: a comparison wants a checkpoint. */
  onCheckpointNeeded?: ((reason: CompareReason, epoch: number) => void) | undefined;
  /** As source: the writes of the epoch have reached their bound. */
  onDisksOverBound?: ((epoch: number) => void) | undefined;
  /** As target: all of a disk's epoch is here and stored. */
  onDiskStaged?: ((staged: StagedDisk) => void) | undefined;
  /** As target: the disks can't be taken over any more. */
  onDisksUnfit?: ((reason: string) => void) | undefined;
  /** The disks do not answer. */
  onDisksSilent?: ((reason: string) => void) | undefined;
  /** The guest's disks are gone for good; it stands still at its next request. */
  onDisksFailure?: ((error: Error) => void) | undefined;
  /** The guest's network is gone for good, and silent. */
  onNetworkFailure?: ((error: Error) => void) | undefined;
}
