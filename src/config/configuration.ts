/**
 * The effective configuration of one agent: checked, complete, with units in the names. Everything
 * behind src/cli takes this and never sees a flag or a file.
 */
import type { DiskSetting, NicSetting } from './devices.js';
import type { TransportSecurity } from './keys.js';
import type { GuestPanicAction, Mode, PeriodSetting } from './mode.js';
import type { Address } from './values.js';
import type { HeartbeatPath, WitnessSetting } from './witness.js';

/** How the links between the hosts are protected; link-security-shell.ts reads the files. */
export interface SecuritySettings {
  readonly transport: TransportSecurity;
  /** Paths of PEM files. */
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
  /** Of which the peer's certificate must have one; "*" alone: any that the CA has signed. */
  readonly peerNames: readonly string[];
}

/** What both roles have. */
export interface CommonConfiguration {
  readonly vm: string;
  /** Name of this host in logs and status. */
  readonly host: string;
  readonly runDir: string;
  readonly stateDir: string;
  readonly socketPath: string;
  /** Where this host waits for the other one, whichever role it has. */
  readonly listen: Address;
  /** The only address that a primary may come from. */
  readonly allowPeer: string | undefined;
  readonly security: SecuritySettings;
  /** Bridge for every NIC that names none; undefined leaves those TAPs unconnected. */
  readonly bridge: string | undefined;
  readonly tracker: 'auto' | 'userfaultfd' | 'soft-dirty' | 'compare';
  readonly peerTimeoutUs: number;
  /** How long a checkpoint may take before a primary gives its secondary up. */
  readonly holdLimitUs: number;
  /** Less than a third of `peerTimeoutUs`. */
  readonly heartbeatIntervalUs: number;
  /** A second way for heartbeats, beside the replication link. */
  readonly heartbeatPath: HeartbeatPath | undefined;
  /** A host on the guest's LAN that answers pings. */
  readonly gateway: string | undefined;
  readonly witness: WitnessSetting;
  readonly witnessTtlUs: number;
  /** At most half of `witnessTtlUs`. */
  readonly witnessTimeoutUs: number;
  readonly onPeerLoss: 'failover' | 'wait';
  /** Of disk data, while this host runs the guest and synchronises a secondary. */
  readonly resyncBytesPerSecond: number | undefined;
  /** For the RAM of this VM's guest after it was moved to another host; 0 keeps none. */
  readonly keepRamBytes: number;
  readonly keepRamAgeUs: number;
  readonly lanAnnounce: boolean;
  /** Its file is for either role. */
  readonly bothRoles: boolean;
  /** File for the guest's serial console on this host. */
  readonly consoleLog: string | undefined;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
  readonly logFormat: 'text' | 'json';
}

/** The machine definition, which the primary also sends to the secondary. */
export interface MachineSettings {
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly accelerator: 'auto' | 'kvm' | 'tcg';
  readonly machine: string;
  readonly cpu: string | undefined;
  readonly kernel: string | undefined;
  readonly initrd: string | undefined;
  readonly append: string | undefined;
  readonly qemuArguments: readonly string[];
}

/** What `colo-primary` runs with. */
export interface PrimaryConfiguration extends CommonConfiguration {
  readonly role: 'primary';
  readonly peer: Address;
  readonly machine: MachineSettings;
  readonly disks: readonly DiskSetting[];
  readonly nics: readonly NicSetting[];
  readonly mode: Mode;
  /** Undefined: what is usual for the mode, also after the mode has changed. */
  readonly periodUs: PeriodSetting | undefined;
  /** At most the period. */
  readonly minIntervalUs: number;
  readonly compareTimeoutUs: number;
  readonly verify: boolean;
  readonly onGuestPanic: GuestPanicAction;
}

/** What a NIC of the primary is connected to on the secondary host. */
export interface NicPlace {
  readonly name: string;
  readonly tap: string | undefined;
  readonly bridge: string | undefined;
}

/** What `colo-secondary` runs with; the machine definition comes from the primary. */
export interface SecondaryConfiguration extends CommonConfiguration {
  readonly role: 'secondary';
  /** Undefined: where the primary that it had a session with listens. */
  readonly peer: Address | undefined;
  /** Must be the primary's: what a stranger asks QEMU for is not done. */
  readonly qemuArguments: readonly string[];
  /** Images with a place of their own; ask `diskPlace` for any disk. */
  readonly disks: readonly DiskSetting[];
  readonly diskDir: string;
  /** NICs with a place of their own; ask `nicConnection` for any NIC. */
  readonly nics: readonly NicPlace[];
  /** Instead of the primary's path. */
  readonly kernel: string | undefined;
  readonly initrd: string | undefined;
}

/** Either role's configuration; `role` tells them apart. */
export type Configuration = PrimaryConfiguration | SecondaryConfiguration;
