/**
 * The test guest without any protection: QEMU with a TAP in the host's bridge and a raw image, the
 * baseline of the bench and a way to try the guest and the clients alone. Machine, memory and
 * devices are those that the agents give it; only the back-ends of disk and NIC differ.
 */
import { join } from 'node:path';
import { Child, run } from './child.js';
import { copyImage, type GuestFiles } from './guest-files.js';
import { BRIDGE, type Namespace } from './lab.js';

const TAP = 'tap0';

export interface PlainGuestOptions {
  readonly host: Namespace;
  readonly guest: GuestFiles;
  readonly mac: string;
  readonly memoryMib: number;
  readonly accelerator: 'kvm' | 'tcg';
  /** Gets the copy of the image and the logs. */
  readonly directory: string;
  /** Another guest's image, not copied; the two must not run at the same time. */
  readonly image?: string | undefined;
  /** More arguments of QEMU. */
  readonly more?: readonly string[];
}

/** Where the guest's image is unless it has another guest's. */
export function plainGuestImage(directory: string, host: Namespace): string {
  return join(directory, `${host.name}.img`);
}

/** Starts it; `stop` the child to end it. */
export async function startPlainGuest(options: PlainGuestOptions): Promise<Child> {
  const { host, directory } = options;
  const image = options.image ?? plainGuestImage(directory, host);
  if (options.image === undefined) await copyImage(options.guest.image, image);
  const ip = [...host.enter, 'ip'];
  await run([...ip, 'tuntap', 'add', 'dev', TAP, 'mode', 'tap']);
  await run([...ip, 'link', 'set', TAP, 'master', BRIDGE, 'up']);
  return new Child({
    name: 'qemu',
    command: [...host.enter, 'qemu-system-x86_64', ...qemuArguments(options, image)],
    logPath: join(directory, `${host.name}-qemu.log`),
  });
}

function qemuArguments(options: PlainGuestOptions, image: string): string[] {
  const { guest, mac, memoryMib, accelerator } = options;
  const ram = { 'qom-type': 'memory-backend-memfd', id: 'ram', size: memoryMib * 2 ** 20 };
  const disk = { driver: 'raw', 'node-name': 'disk', discard: 'unmap' };
  const file = { driver: 'file', filename: image };
  const nic = { driver: 'virtio-net-pci', netdev: 'nic0', mac, romfile: '', guest_announce: false };
  const tap = { type: 'tap', id: 'nic0', ifname: TAP, script: 'no', downscript: 'no' };
  return [
    ...['-no-user-config', '-nodefaults', '-display', 'none', '-vga', 'none'],
    ...['-machine', 'pc,memory-backend=ram', '-accel', accelerator, '-cpu', 'qemu64'],
    ...['-smp', '1', '-m', `${memoryMib}M`],
    ...['-object', JSON.stringify({ ...ram, share: true, merge: false, dump: false })],
    ...['-serial', `file:${options.directory}/${options.host.name}-console.log`],
    ...['-blockdev', JSON.stringify({ ...disk, file })],
    ...['-device', JSON.stringify({ driver: 'virtio-blk-pci', drive: 'disk' })],
    ...['-netdev', JSON.stringify(tap), '-device', JSON.stringify(nic)],
    ...['-kernel', guest.kernel, '-initrd', guest.initrd, '-append', guest.commandLine],
    ...(options.more ?? []),
  ];
}
