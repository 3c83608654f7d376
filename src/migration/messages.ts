/**
 * What source and destination of a migration say to each other, as typed sections. The bytes are
 * in section-wire.ts (the frame of a section) and section-codecs.ts (each section's fields); which
 * link carries what is `LINK_OF`. The order, and what a lost section means, is in
 * docs/protocol/migration.md.
 *
 * Offsets and lengths are bytes of guest RAM, page-aligned; times are microseconds.
 */
import type { PageRange } from '../lib/index.js';

/**
 * - `precopy`: RAM goes over while the guest runs at the source, then execution moves.
 * - `postcopy`: execution moves at once, RAM follows.
 * - `hybrid`: one round of precopy, then postcopy.
 */
export type MigrationMode = 'precopy' | 'postcopy' | 'hybrid';
export const MIGRATION_MODES: readonly MigrationMode[] = ['precopy', 'postcopy', 'hybrid'];

export type Compression = 'none' | 'lz4' | 'zstd';
export const COMPRESSIONS: readonly Compression[] = ['none', 'lz4', 'zstd'];

/** `shared`: both hosts see the same storage. `moved`: its content goes with the guest. */
export type DiskPlace = 'shared' | 'moved';
export const DISK_PLACES: readonly DiskPlace[] = ['shared', 'moved'];

export interface MigratedDisk {
  readonly name: string;
  readonly sizeBytes: number;
  readonly place: DiskPlace;
  readonly readOnly: boolean;
}

/** The content of some of them goes with the guest. */
export function movesDisks(disks: readonly MigratedDisk[]): boolean {
  return disks.some(({ place, readOnly }) => place === 'moved' && !readOnly);
}

export interface MigratedNic {
  /** `aa:bb:cc:dd:ee:ff`. */
  readonly mac: string;
  readonly bridge: string;
}

export interface MigrationChoices {
  readonly mode: MigrationMode;
  /** False: in postcopy only demanded pages are sent. */
  readonly background: boolean;
  readonly compression: Compression;
  /** The source wants to know what the destination still has of this guest. */
  readonly assisted: boolean;
}

/** Of a kept RAM image: 16 random bytes, in hexadecimal. */
export type ImageId = string;

/** Of a migration: 16 random bytes chosen by the source, in hexadecimal. A new try is another. */
export type MigrationId = string;

export interface HelloSection {
  readonly kind: 'hello';
  readonly migration: MigrationId;
  readonly vm: string;
  /** The source's name. */
  readonly host: string;
  readonly qemuVersion: string;
  readonly machineType: string;
  readonly cpuModel: string;
  readonly accelerator: 'kvm' | 'tcg';
  readonly pageSizeBytes: number;
  readonly ramSizeBytes: number;
  readonly choices: MigrationChoices;
  readonly disks: readonly MigratedDisk[];
  readonly nics: readonly MigratedNic[];
  /** The resolved machine definition; src/emulator checks it. */
  readonly definitionJson: string;
}

/** The same migration in a new session, after `run` was sent: what does the destination have? */
export interface ResumeSection {
  readonly kind: 'resume';
  readonly migration: MigrationId;
  readonly vm: string;
  readonly host: string;
}

/** A batch of pages, coded by src/migration/pages. Numbered from 0 in each session. */
export interface PagesSection {
  readonly kind: 'pages';
  readonly sequence: number;
  readonly batch: Buffer;
  /** CRC-32C of the batch, of one that came and was not read for it. */
  readonly crc?: number;
}

/** The same for pages that were demanded, numbered by themselves. Empty if none were. */
export interface DemandedSection {
  readonly kind: 'demanded';
  readonly sequence: number;
  readonly batch: Buffer;
  readonly crc?: number;
}

/** Round `round` of precopy is over; `batches` of the ram stream so far. */
export interface RoundSection {
  readonly kind: 'round';
  readonly round: number;
  readonly batches: number;
  /** Found dirty since: what is still to come, as the source sees it. */
  readonly dirtyPages: number;
}

/** Postcopy: pages that the destination lacks at the switchover. Ascending over sections. */
export interface PendingSection {
  readonly kind: 'pending';
  readonly ranges: readonly PageRange[];
}

/** A piece of the device state; the pieces follow each other. */
export interface DeviceStateSection {
  readonly kind: 'deviceState';
  readonly bytes: Buffer;
}

/** The guest is paused at the source; this is what the destination must have before it loads. */
export interface SwitchoverSection {
  readonly kind: 'switchover';
  /** True: the pages of the `pending` sections follow after the guest runs. */
  readonly postcopy: boolean;
  /** Of the ram stream: how many, and CRC-32C over their CRC-32Cs (see `StreamDigest`). */
  readonly batches: number;
  readonly streamDigest: number;
  readonly pendingPages: number;
  readonly deviceStateBytes: number;
  readonly deviceStateDigest: number;
  /** CRC-32C of all guest RAM as it is now, in a `--verify` run. */
  readonly ramDigest: number | undefined;
  /** The source has sent every write of the moved disks. */
  readonly disksMoved: boolean;
}

/** The source is silent and will stay so: the guest is the destination's. */
export interface RunSection {
  readonly kind: 'run';
}

/** The source goes on itself; the destination forgets the guest. Never follows `run`. */
export interface CancelSection {
  readonly kind: 'cancel';
  readonly reason: string;
}

/** The source has released memory and role: the migration is over. */
export interface ReleasedSection {
  readonly kind: 'released';
}

/**
 * Answer to an `accepted` that offers an image. `digests`: send them; `known`: the source knows what
 * has changed since that image and needs none.
 */
export interface AssistSection {
  readonly kind: 'assist';
  readonly answer: 'digests' | 'known';
}

/** QEMU is there, paused, and everything can be received. */
export interface AcceptedSection {
  readonly kind: 'accepted';
  readonly host: string;
  readonly qemuVersion: string;
  /** An image of this guest's RAM that was kept here and is loaded; undefined: none. */
  readonly image: ImageId | undefined;
  /** What becomes of its images of the moved disks; src/blockrep checks it. */
  readonly verdictsJson: string;
}

/** One thing that the destination lacks or has otherwise. */
export interface Difference {
  /** As in "CPU model" or "bridge of NIC 1". */
  readonly what: string;
  readonly source: string;
  readonly destination: string;
}

export interface RefusedSection {
  readonly kind: 'refused';
  /** At least one. */
  readonly differences: readonly Difference[];
}

/** Digests of the kept image's pages from `offset` on, in order; a page without content has none. */
export interface DigestsSection {
  readonly kind: 'digests';
  /** As src/migration/store codes them. */
  readonly bytes: Buffer;
  readonly last: boolean;
}

/**
 * The guest waits for these pages. Most urgent first, a batch for each range. One of no ranges is
 * answered, too: so both ends exercise their code before a guest waits.
 */
export interface DemandSection {
  readonly kind: 'demand';
  readonly ranges: readonly PageRange[];
}

/** Batches of `pages` up to and with `sequence` are in the destination's RAM. */
export interface ReceivedSection {
  readonly kind: 'received';
  readonly sequence: number;
}

/** These pages, which were demanded, are in the destination's RAM. */
export interface PlacedSection {
  readonly kind: 'placed';
  readonly ranges: readonly PageRange[];
}

/** All that `switchover` names is here and agrees; the guest is loaded and paused. */
export interface LoadedSection {
  readonly kind: 'loaded';
}

/** The guest runs at the destination, and is heard. */
export interface RunningSection {
  readonly kind: 'running';
  /** `run` received to vCPUs running; it was heard a little later, see `speak`. */
  readonly startUs: number;
}

/**
 * Answer to `resume`.
 * - `loaded`: `run` has not been received; the guest is loaded and waits for it.
 * - `running`: it runs, and the pages of the `missing` sections that follow are not there.
 * - `complete`: it runs and lacks nothing.
 * - `discarded`: it never ran here and never will.
 * - `lost`: it ran here and does not any more.
 * - `unknown`: nothing is known here of this migration.
 */
export interface ResumedSection {
  readonly kind: 'resumed';
  readonly state: ResumedState;
}

export type ResumedState = 'loaded' | 'running' | 'complete' | 'discarded' | 'lost' | 'unknown';
export const RESUMED_STATES: readonly ResumedState[] = [
  ...(['loaded', 'running', 'complete', 'discarded', 'lost', 'unknown'] as const),
];

/** Postcopy, after `resumed`: pages that are not there. Ascending over sections. */
export interface MissingSection {
  readonly kind: 'missing';
  readonly ranges: readonly PageRange[];
  readonly last: boolean;
}

/** Postcopy, before `complete`: what waiting for pages cost the guest. Only for the operator. */
export interface FaultsSection {
  readonly kind: 'faults';
  /** Pages that were waited for; microseconds of one wait, of half of them and of 99 in 100. */
  readonly faults: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

export interface CompleteSection {
  readonly kind: 'complete';
}

/** The destination can't go on. `ran`: the guest may have run there. */
export interface FailedSection {
  readonly kind: 'failed';
  readonly reason: string;
  readonly ran: boolean;
}

export type SourceSection =
  | HelloSection
  | ResumeSection
  | PagesSection
  | DemandedSection
  | RoundSection
  | PendingSection
  | DeviceStateSection
  | SwitchoverSection
  | RunSection
  | CancelSection
  | ReleasedSection
  | AssistSection;

export type DestinationSection =
  | AcceptedSection
  | RefusedSection
  | DigestsSection
  | DemandSection
  | ReceivedSection
  | PlacedSection
  | LoadedSection
  | RunningSection
  | ResumedSection
  | MissingSection
  | FaultsSection
  | CompleteSection
  | FailedSection;

/** What the faults link carries: for its threads, not for the cores. */
export type LaneSection = DemandSection | DemandedSection;

export type Section = SourceSection | DestinationSection;
export type SectionKind = Section['kind'];

/** A link of src/transport's session; sections of one link keep their order. */
export type MigrationLink = 'control' | 'ram' | 'faults';

/**
 * Which link carries what. `switchover` is on the ram link, behind all that it counts; demands and
 * demanded pages have a link, and at each end a thread, to themselves. The disk and network links
 * are those of src/guest: moved disks, and input from the LAN that the guest has not had.
 */
export const LINK_OF: Readonly<Record<SectionKind, MigrationLink>> = {
  hello: 'control',
  resume: 'control',
  pages: 'ram',
  demanded: 'faults',
  round: 'ram',
  pending: 'ram',
  deviceState: 'ram',
  switchover: 'ram',
  run: 'control',
  cancel: 'control',
  released: 'control',
  assist: 'control',
  accepted: 'control',
  refused: 'control',
  digests: 'ram',
  demand: 'faults',
  received: 'ram',
  placed: 'control',
  loaded: 'control',
  running: 'control',
  resumed: 'control',
  missing: 'control',
  faults: 'control',
  complete: 'control',
  failed: 'control',
};

/**
 * One end of a migration's conversation: sections in, sections out, of whatever wire format. What
 * was put is delivered whole and in the order of its link, or the channel closes.
 */
export interface MigrationChannel<Out extends Section = Section, In extends Section = Section> {
  put(section: Out): void;
  /** False: a sender of pages waits for `drained()`. */
  readonly writable: boolean;
  drained(): Promise<void>;
  /** Who gets what comes; without one (undefined) it waits. */
  onSection(handler: ((section: In) => void) | undefined): void;
  /** Called once; `malformed`: the peer broke the format, `reason` names the section. */
  onClose(
    handler: (reason: { readonly malformed: boolean; readonly reason: string }) => void,
  ): void;
  close(): void;
}
