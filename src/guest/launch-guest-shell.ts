/**
 * Launches a guest and everything it stands on: disks, NICs, QEMU.
 *
 * Stopped in reverse order; a start that fails half-way stops what it had started.
 */
import { rm } from 'node:fs/promises';
import type { Configuration } from '../config/index.js';
import {
  CHILD_FD,
  launchQemu,
  makeRuntimeDir,
  QMP_HUNG_US_MIN,
  type ResolvedMachineDefinition,
} from '../emulator/index.js';
import type { LeaseMemory } from '../failover/index.js';
import type { Logger } from '../lib/index.js';
import { digestFile } from '../replication/index.js';
import { type DiskPlace, GuestDisks, type StartedDisks } from './disks/disks-client-shell.js';
import type { Guest, GuestHooks } from './guest.js';
import type { LeftGuestRam } from './left-ram-shell.js';
import { GuestNetwork } from './network/guest-network-shell.js';
import type { NicPlace } from './network/guest-nic.js';

export interface LaunchOptions {
  readonly configuration: Configuration;
  /**
   * `live`: it boots and speaks. `standby`: it starts paused, on a private mapping of its RAM file,
   * with its NICs silent: nothing of it can be heard before a promotion. `arriving`: as that, but
   * the RAM file is its RAM.
   */
  readonly role: 'live' | 'standby' | 'arriving';
  /** Memory that the guest had on this host; taken from there once QEMU is to be launched. */
  readonly leftRam?: LeftGuestRam | undefined;
  /** The guest may run before all of its RAM is there (postcopy); only with `arriving`. */
  readonly lacksPages?: boolean;
  /** It comes by one load of its devices; not with `live`. */
  readonly incoming?: boolean;
  readonly disks: readonly DiskPlace[];
  readonly nics: readonly NicPlace[];
  readonly compareTimeoutUs: number;
  /** The right to speak, for every NIC; undefined: it has no end. */
  readonly lease: LeaseMemory | undefined;
  /** The machine, once the disks are open and before anything is written to them. */
  readonly define: (started: StartedDisks, disks: GuestDisks) => Promise<ResolvedMachineDefinition>;
  readonly log: Logger;
}

/** Throws OperatorError for what can't be had. */
export async function launchGuest(options: LaunchOptions): Promise<Guest> {
  const { configuration, role, log } = options;
  const { vm, host, runDir, stateDir, tracker, consoleLog } = configuration;
  const cleanups: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  };
  try {
    const runtimeDir = await makeRuntimeDir(runDir, vm);
    cleanups.push(() => rm(runtimeDir, { recursive: true, force: true }));
    const hooks: GuestHooks = {};
    const disks = hookedDisks(hooks, log);
    cleanups.push(() => disks.stop());
    const network = hookedNetwork(hooks, log);
    // A thread of its own: it starts beside that of the disks.
    const nicsStart = network.start({
      nics: options.nics,
      compareTimeoutUs: options.compareTimeoutUs,
      live: role === 'live',
      lease: options.lease,
    });
    const nicsStarted = nicsStart.catch(() => undefined);
    cleanups.push(async () => {
      await nicsStarted;
      await network.stop();
    });
    const started = await disks.start({
      role: role === 'live' ? 'live' : 'standby',
      host,
      disks: options.disks,
      vm,
      stateDirectory: stateDir,
      socketDirectory: runtimeDir,
      ramDescriptor: CHILD_FD.ram,
    });
    const definition = await options.define(started, disks);
    const nicFds = await nicsStart;
    const leftRam = options.leftRam?.take(definition.memoryMib * 2 ** 20);
    const emulator = await launchQemu({
      definition,
      ...(leftRam === undefined ? {} : { leftRam }),
      ramMapping: role === 'standby' ? 'private' : 'shared',
      diskSockets: started.sockets,
      nicFds,
      runtimeDir,
      startPaused: role !== 'live',
      missingPages: options.lacksPages ?? false,
      incoming: options.incoming ?? false,
      tracker,
      hungAfterUs: Math.max(QMP_HUNG_US_MIN, configuration.peerTimeoutUs),
      ...(consoleLog === undefined ? {} : { consoleLog }),
      log,
    });
    cleanups.push(() => emulator.kill());
    network.closeQemuFds();
    const [kernelSha256, initrdSha256] = await Promise.all([
      digestFile(definition.kernel?.image),
      digestFile(definition.kernel?.initrd),
    ]);
    const files = { kernelSha256, initrdSha256 };
    const past = leftRam === undefined ? {} : { hasLeftRam: true };
    return { definition, emulator, disks, network, ...files, hooks, past, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function hookedDisks(hooks: GuestHooks, log: Logger): GuestDisks {
  return new GuestDisks({
    log,
    onOverBound: (epoch) => hooks.onDisksOverBound?.(epoch),
    onStaged: (staged) => hooks.onDiskStaged?.(staged),
    onUnfit: (reason) => hooks.onDisksUnfit?.(reason),
    onSilent: (reason) => hooks.onDisksSilent?.(reason),
    onFailure: (error) => hooks.onDisksFailure?.(error),
  });
}

function hookedNetwork(hooks: GuestHooks, log: Logger): GuestNetwork {
  return new GuestNetwork({
    log,
    onCheckpointNeeded: (reason, epoch) => hooks.onCheckpointNeeded?.(reason, epoch),
    onFailure: (error) => hooks.onNetworkFailure?.(error),
  });
}
