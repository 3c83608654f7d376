/**
 * Machine definition in, QEMU's arguments out. Values go in as JSON wherever QEMU takes it, so that
 * a comma in a path is no separator; the definition's own names are checked when it is parsed.
 *
 * Every file and socket of ours is inherited by number: nothing has a path, so nothing is left
 * over.
 */

import type { ResolvedMachineDefinition } from './machine-definition.js';
import type { JsonObject } from './qmp-wire.js';

/**
 * QEMU's end of what the agent hands it; the numbers are those of `spawn`'s stdio array. NIC i has
 * its frames at `nics` + 2i, and at the number behind it what only the preload library knows.
 */
export const CHILD_FD = {
  ram: 3,
  deviceState: 4,
  vmState: 5,
  control: 6,
  qmp: 7,
  console: 8,
  incoming: 9,
  nics: 10,
} as const;

export const VM_STATE_NODE = 'colo-vmstate';
/** Opening this gives QEMU its own handle on the memory file behind the descriptor. */
export const DEVICE_STATE_PATH = `/proc/self/fd/${CHILD_FD.deviceState}`;

export interface CommandLineOptions {
  readonly definition: ResolvedMachineDefinition;
  readonly ramMapping: 'shared' | 'private';
  readonly diskSockets: readonly string[];
  readonly startPaused: boolean;
  /** It waits for a guest: incoming-stream.ts. */
  readonly incoming?: boolean;
}

/** The arguments behind the binary's name. Sockets belong to disks by their position. */
export function formatCommandLine(options: CommandLineOptions): string[] {
  const { definition } = options;
  return [
    ...['-name', definition.name, '-no-user-config', '-nodefaults'],
    ...['-display', 'none', '-vga', 'none'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...machineArguments(options),
    // A guest that powers off stays, paused, and one that panics runs on: the agent decides what
    // becomes of it, and on the secondary the next checkpoint brings it back.
    ...['-action', 'reboot=reset,shutdown=pause,watchdog=reset,panic=none'],
    ...(options.startPaused ? ['-S'] : []),
    ...(options.incoming === true ? ['-incoming', 'defer'] : []),
    ...['-chardev', `socket,id=qmp,fd=${CHILD_FD.qmp}`, '-mon', 'chardev=qmp,mode=control'],
    ...['-chardev', `socket,id=console,fd=${CHILD_FD.console}`, '-serial', 'chardev:console'],
    ...json('-blockdev', {
      driver: 'qcow2',
      'node-name': VM_STATE_NODE,
      file: {
        driver: 'file',
        filename: `/proc/self/fd/${CHILD_FD.vmState}`,
        locking: 'off',
        cache: { 'no-flush': true },
      },
    }),
    ...definition.disks.flatMap((disk, i) => diskArguments(disk, i, options.diskSockets[i] ?? '')),
    ...definition.nics.flatMap((nic, i) => nicArguments(nic.mac, i)),
    ...kernelArguments(definition),
    // By which the guest's kernel reports a panic; at a port of its own, on the ISA bus.
    ...(/^pc-/.test(definition.machineType) ? ['-device', 'pvpanic'] : []),
    ...definition.extraArguments,
  ];
}

function machineArguments({ definition, ramMapping }: CommandLineOptions): string[] {
  const ram = {
    'qom-type': 'memory-backend-file',
    id: 'ram',
    size: definition.memoryMib * 2 ** 20,
    'mem-path': `/proc/self/fd/${CHILD_FD.ram}`,
    share: ramMapping === 'shared',
    // Merging would replace the guest's pages behind the tracker's back; a core would copy them
    // out.
    merge: false,
    dump: false,
  };
  return [
    // Without the JSON description at its end, a saved device state is what snapshot-load expects.
    ...['-machine', `${definition.machineType},memory-backend=ram,suppress-vmdesc=on`],
    ...['-accel', definition.accelerator, '-cpu', definition.cpuModel],
    ...['-smp', String(definition.vcpus), '-m', `${definition.memoryMib}M`],
    ...json('-object', ram),
  ];
}

function diskArguments(
  disk: ResolvedMachineDefinition['disks'][number],
  index: number,
  socket: string,
): string[] {
  const node = `disk-${disk.name}`;
  return [
    ...json('-blockdev', {
      driver: 'nbd',
      'node-name': node,
      server: { type: 'unix', path: socket },
      export: disk.name,
      'read-only': disk.readOnly,
      discard: 'unmap',
    }),
    ...json('-device', {
      driver: 'virtio-blk-pci',
      id: `virtio-disk${index}`,
      drive: node,
      // A disk request that fails is this host's fault, never the guest's: it is kept and the guest
      // paused, so that the agent can fail over and the other host repeats it.
      rerror: 'stop',
      werror: 'stop',
    }),
  ];
}

function nicArguments(mac: string, index: number): string[] {
  const id = `nic${index}`;
  return [
    // A socket of ours that the preload library makes a TAP; vhost would go past the agent.
    ...json('-netdev', { type: 'tap', id, fd: String(CHILD_FD.nics + 2 * index), vhost: false }),
    // No boot ROM: nothing boots from the network here, and it would be 256 KiB of device state.
    ...json('-device', {
      driver: 'virtio-net-pci',
      id: `virtio-${id}`,
      netdev: id,
      mac,
      romfile: '',
      // A load makes QEMU ask the guest to announce itself, as after a migration: an SVM would do
      // so after each checkpoint, and the PVM does not. After a failover the agent announces.
      guest_announce: false,
    }),
  ];
}

function kernelArguments({ kernel }: ResolvedMachineDefinition): string[] {
  if (kernel === undefined) return [];
  return [
    ...['-kernel', kernel.image],
    ...(kernel.initrd === undefined ? [] : ['-initrd', kernel.initrd]),
    ...(kernel.commandLine === '' ? [] : ['-append', kernel.commandLine]),
  ];
}

function json(option: string, value: JsonObject): string[] {
  return [option, JSON.stringify(value)];
}
