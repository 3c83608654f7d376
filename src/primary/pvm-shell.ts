/**
 * The PVM and everything it stands on: disks, NICs, QEMU.
 *
 * Started from the configuration, stopped in reverse order; a start that fails half-way stops what
 * it had started.
 */
import { rm } from 'node:fs/promises';
import type { PrimaryConfiguration } from '../config/index.js';
import {
  type Emulator,
  launchQemu,
  makeRuntimeDir,
  parseMachineDefinition,
  type ResolvedMachineDefinition,
  resolveMachineDefinition,
} from '../emulator/index.js';
import { type CompareReason, GuestDisks, GuestNetwork } from '../guest/index.js';
import type { Logger } from '../lib/index.js';
import { digestFile } from '../replication/index.js';

const MIB = 1024 * 1024;

/** A running PVM. */
export interface Pvm {
  readonly definition: ResolvedMachineDefinition;
  readonly emulator: Emulator;
  readonly disks: GuestDisks;
  readonly network: GuestNetwork;
  readonly kernelSha256: string | null;
  readonly initrdSha256: string | null;
  /** Kills the guest and releases everything. Idempotent. */
  stop(): Promise<void>;
}

/** Set by the node as sessions come and go. */
export interface PvmHooks {
  onDisksOverBound?: ((epoch: number) => void) | undefined;
  /** The disks do not answer. */
  onDisksSilent?: ((reason: string) => void) | undefined;
  /** The guest's disks are gone for good; it stands still at its next request. */
  onDisksFailure?: ((error: Error) => void) | undefined;
  onCheckpointNeeded?: ((reason: CompareReason, epoch: number) => void) | undefined;
  /** The guest's network is gone for good, and silent. */
  onNetworkFailure?: ((error: Error) => void) | undefined;
}

/** Starts the guest, unprotected: its output passes. Throws OperatorError for what can't be had. */
export async function startPvm(
  configuration: PrimaryConfiguration,
  hooks: PvmHooks,
  log: Logger,
): Promise<Pvm> {
  const cleanups: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  };
  try {
    const runtimeDir = await makeRuntimeDir(configuration.runDir, configuration.vm);
    cleanups.push(() => rm(runtimeDir, { recursive: true, force: true }));
    const disks = new GuestDisks({
      log,
      onOverBound: (epoch) => hooks.onDisksOverBound?.(epoch),
      onSilent: (reason) => hooks.onDisksSilent?.(reason),
      onFailure: (error) => hooks.onDisksFailure?.(error),
    });
    cleanups.push(() => disks.stop());
    const { sockets, sizes } = await disks.start({
      role: 'live',
      host: configuration.host,
      disks: configuration.disks,
      vm: configuration.vm,
      stateDirectory: configuration.stateDir,
      socketDirectory: runtimeDir,
    });
    await disks.beginAlone();
    const definition = await defineMachine(configuration, sizes);
    const network = new GuestNetwork({
      log,
      onCheckpointNeeded: (reason, epoch) => hooks.onCheckpointNeeded?.(reason, epoch),
      onFailure: (error) => hooks.onNetworkFailure?.(error),
    });
    cleanups.push(() => network.stop());
    const nicFds = await network.start({
      nics: configuration.nics.map(({ tap, bridge }) => ({
        tapName: tap,
        ...(bridge === undefined ? {} : { bridge }),
      })),
      compareTimeoutUs: configuration.compareTimeoutUs,
      live: true,
    });
    const emulator = await launchQemu({
      definition,
      ramMapping: 'shared',
      diskSockets: sockets,
      nicFds,
      runtimeDir,
      startPaused: false,
      tracker: configuration.tracker,
      ...(configuration.consoleLog === undefined ? {} : { consoleLog: configuration.consoleLog }),
      log,
    });
    cleanups.push(() => emulator.kill());
    network.closeQemuFds();
    const kernelSha256 = await digestFile(definition.kernel?.image);
    const initrdSha256 = await digestFile(definition.kernel?.initrd);
    return { definition, emulator, disks, network, kernelSha256, initrdSha256, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function defineMachine(
  configuration: PrimaryConfiguration,
  diskSizes: readonly number[],
): Promise<ResolvedMachineDefinition> {
  const { machine } = configuration;
  const kernel = machine.kernel && {
    image: machine.kernel,
    ...(machine.initrd === undefined ? {} : { initrd: machine.initrd }),
    commandLine: machine.append ?? '',
  };
  const definition = parseMachineDefinition({
    name: configuration.vm,
    memoryMib: machine.memoryBytes / MIB,
    vcpus: machine.vcpus,
    accelerator: machine.accelerator,
    machineType: machine.machine,
    ...(machine.cpu === undefined ? {} : { cpuModel: machine.cpu }),
    ...(kernel === undefined ? {} : { kernel }),
    disks: configuration.disks.map(({ name, readOnly = false }, index) => ({
      name,
      sizeBytes: diskSizes[index] ?? 0,
      readOnly,
    })),
    nics: configuration.nics.map(({ name, mac }) => ({ name, mac })),
    extraArguments: machine.qemuArguments,
  });
  return resolveMachineDefinition(definition);
}
