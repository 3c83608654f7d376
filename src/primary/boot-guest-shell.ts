/** Boots the guest from the configuration of the host that is started as the primary. */
import type { PrimaryConfiguration } from '../config/index.js';
import {
  parseMachineDefinition,
  type ResolvedMachineDefinition,
  resolveMachineDefinition,
} from '../emulator/index.js';
import type { LeaseMemory } from '../failover/index.js';
import { type Guest, launchGuest } from '../guest/index.js';
import type { Logger } from '../lib/index.js';

const MIB = 1024 * 1024;

/** Starts the guest, unprotected: its output passes. Throws OperatorError for what can't be had. */
export function bootGuest(
  configuration: PrimaryConfiguration,
  log: Logger,
  lease: LeaseMemory | undefined,
): Promise<Guest> {
  return launchGuest({
    configuration,
    role: 'live',
    disks: configuration.disks,
    nics: configuration.nics.map(({ tap, bridge }) => ({
      tapName: tap,
      ...(bridge === undefined ? {} : { bridge }),
    })),
    compareTimeoutUs: configuration.compareTimeoutUs,
    lease,
    define: async ({ sizes }, disks) => {
      await disks.beginAlone();
      return defineMachine(configuration, sizes);
    },
    log,
  });
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
