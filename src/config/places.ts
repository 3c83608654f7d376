/**
 * Where the parts of a guest are on this host when its definition comes from the peer: asked by
 * name, because names are what both hosts share.
 */
import type { Configuration } from './configuration.js';
import { type DiskSetting, defaultTap } from './devices.js';

/** What a NIC of the guest is connected to on this host. */
export interface NicConnection {
  readonly tap: string;
  readonly bridge: string | undefined;
}

/** Where a disk's image is. `disk` is a checked name (`parseName`). */
export function diskPlace(configuration: Configuration, disk: string): DiskSetting {
  const placed = configuration.disks.find((candidate) => candidate.name === disk);
  const { vm, stateDir } = configuration;
  const directory = configuration.role === 'secondary' ? configuration.diskDir : stateDir;
  return placed ?? { name: disk, path: `${directory}/${vm}-${disk}.img` };
}

/** The TAP and bridge of a NIC. `nic` is a checked name (`parseName`). */
export function nicConnection(configuration: Configuration, nic: string): NicConnection {
  const placed = configuration.nics.find((candidate) => candidate.name === nic);
  return {
    tap: placed?.tap ?? defaultTap(configuration.vm, nic),
    bridge: placed?.bridge ?? configuration.bridge,
  };
}

/** The files to boot from and further arguments, as this host has them. */
export function bootFiles(configuration: Configuration): {
  readonly kernel: string | undefined;
  readonly initrd: string | undefined;
  readonly qemuArguments: readonly string[];
} {
  return configuration.role === 'primary' ? configuration.machine : configuration;
}
