/**
 * A guest of another host, launched from what that one's hello says: paused and silent. As an SVM
 * it is made equal to that host's again and again; in a migration it becomes that guest.
 */
import {
  type AcceptedImage,
  type ImageClaim,
  judgeDisks,
  type Lineage,
  lineageOf,
  type PrimaryImage,
  parsePrimaryImages,
} from '../blockrep/index.js';
import { bootFiles, type Configuration, diskPlace, nicConnection } from '../config/index.js';
import {
  type MachineDefinition,
  parseMachineDefinition,
  probeQemu,
  type ResolvedMachineDefinition,
  resolveMachineDefinition,
} from '../emulator/index.js';
import type { LeaseMemory } from '../failover/index.js';
import { describeError, type Logger, OperatorError, PAGE_SIZE_BYTES } from '../lib/index.js';
import type { Difference } from '../migration/index.js';
import { digestFile, type Hello } from '../replication/index.js';
import { GuestDisks } from './disks/disks-client-shell.js';
import { FaultTarget } from './faults/fault-target-shell.js';
import type { Guest } from './guest.js';
import { type LaunchOptions, launchGuest } from './launch-guest-shell.js';
import { GuestNetwork } from './network/guest-network-shell.js';

/** What came of a hello. */
export interface ReceivedGuest {
  readonly guest: Guest;
  /** Of the other host's images, for each disk that is not read-only. */
  readonly lineages: readonly Lineage[];
  /** What becomes of this host's images of these disks. */
  readonly verdicts: readonly AcceptedImage[];
}

export interface ReceiveOptions extends Pick<LaunchOptions, 'lacksPages' | 'incoming' | 'leftRam'> {
  readonly role: 'standby' | 'arriving';
  readonly lease: LeaseMemory | undefined;
  readonly log: Logger;
}

/** Code of the refusal of a host whose data would replace what only this host has. */
export const IMAGE_AT_STAKE = 'COLO_E_IMAGE_AT_STAKE';

/**
 * Launches it. Throws OperatorError or ProtocolError with what the other host's operator must know.
 */
export async function receiveGuest(
  configuration: Configuration,
  hello: Hello,
  options: ReceiveOptions,
): Promise<ReceivedGuest> {
  const { log } = options;
  const sent = parseMachineDefinition(hello.definition, 'peer');
  const images = parsePrimaryImages(hello.images);
  const configured = configuredDifferences(configuration, hello);
  // What takes time goes on beside the launch: QEMU stands still until it is known.
  const files = bootFileDifferences(configuration, hello);
  files.catch(() => undefined);
  let verdicts: readonly AcceptedImage[] = [];
  const launching = launchGuest({
    ...options,
    configuration,
    disks: sent.disks.map(({ name, sizeBytes, readOnly }) => {
      return { ...diskPlace(configuration, name), sizeBytes, readOnly };
    }),
    nics: sent.nics.map(({ name }) => {
      const { tap, bridge } = nicConnection(configuration, name);
      return { tapName: tap, ...(bridge === undefined ? {} : { bridge }) };
    }),
    compareTimeoutUs: hello.policy.compareTimeoutUs,
    define: async ({ claims }) => {
      if (configured.length > 0) throw new PeerDiffersError([...configured, ...(await files)]);
      verdicts = judge(images, claims);
      return definitionHere(configuration, sent);
    },
  });
  const guest = await unlessDiffering(launching, files);
  const { qemuVersion } = guest.emulator.description;
  if (qemuVersion !== hello.qemuVersion) {
    log.warn(`QEMU versions differ: ${qemuVersion} here, ${hello.qemuVersion} there`);
  }
  return { guest, lineages: images.map(({ record }) => lineageOf(record)), verdicts };
}

/**
 * Does ahead of time what a guest that comes would wait for: the threads of its disks, NICs and
 * faults, QEMU's offer, the digests of the boot files. What goes wrong here is told to whoever asks then.
 */
export function prepareForGuest(configuration: Configuration): void {
  GuestDisks.prepare();
  GuestNetwork.prepare();
  FaultTarget.prepare();
  const { kernel, initrd } = bootFiles(configuration);
  for (const found of [probeQemu(), digestFile(kernel), digestFile(initrd)]) {
    found.catch(() => undefined);
  }
}

/** What this host's configuration has otherwise than the other's; `advice`: said in its place. */
export interface ConfiguredDifference extends Difference {
  readonly advice?: string;
}

/** The two hosts would not run the same guest. */
export class PeerDiffersError extends OperatorError {
  readonly differences: readonly ConfiguredDifference[];

  constructor(differences: readonly ConfiguredDifference[]) {
    const texts = differences.map(({ what, source, destination, advice }) => {
      return advice ?? `The primary's ${what} is ${source}, the secondary's ${destination}`;
    });
    super('COLO_E_PEER_DIFFERS', texts.join('; '));
    this.differences = differences;
  }
}

function mustNotDiffer(differences: readonly ConfiguredDifference[]): void {
  if (differences.length > 0) throw new PeerDiffersError(differences);
}

/** Launched from the other host's files, or ended: they are told rather than what QEMU says. */
async function unlessDiffering(
  launching: Promise<Guest>,
  files: Promise<readonly ConfiguredDifference[]>,
): Promise<Guest> {
  let guest: Guest | undefined;
  try {
    guest = await launching;
    mustNotDiffer(await files);
    return guest;
  } catch (error) {
    await guest?.stop();
    if (!(error instanceof PeerDiffersError)) mustNotDiffer(await files);
    throw error;
  }
}

/**
 * What an operator has to make equal on both hosts, but for the files that the guest is booted
 * from. Throws ProtocolError.
 */
export function configuredDifferences(
  configuration: Configuration,
  hello: Hello,
): ConfiguredDifference[] {
  const found: ConfiguredDifference[] = [];
  const compare = (what: string, source: string, destination: string): void => {
    if (source !== destination) found.push({ what, source, destination });
  };
  compare('vm', hello.vm, configuration.vm);
  compare('page size', String(hello.pageSizeBytes), String(PAGE_SIZE_BYTES));
  const sent = parseMachineDefinition(hello.definition, 'peer');
  const [theirs, ours] = [sent.extraArguments, bootFiles(configuration).qemuArguments];
  compare('list of qemu-arg', JSON.stringify(theirs), JSON.stringify(ours));
  return found;
}

/** The same of these files, by their digests: tens of megabytes are read. Throws ProtocolError. */
export async function bootFileDifferences(
  configuration: Configuration,
  hello: Hello,
): Promise<ConfiguredDifference[]> {
  const { kernel } = parseMachineDefinition(hello.definition, 'peer');
  if (kernel === undefined) return [];
  const { image, initrd } = filesHere(configuration, kernel);
  const found = [
    compareFile('kernel', image, hello.kernelSha256),
    initrd === undefined ? [] : compareFile('initrd', initrd, hello.initrdSha256),
  ];
  return (await Promise.all(found)).flat();
}

function filesHere(
  configuration: Configuration,
  kernel: NonNullable<MachineDefinition['kernel']>,
): { image: string; initrd: string | undefined } {
  const here = bootFiles(configuration);
  return { image: here.kernel ?? kernel.image, initrd: here.initrd ?? kernel.initrd };
}

/** The machine, with this host's boot files, which must be the ones that it was booted from. */
export async function checkedDefinition(
  configuration: Configuration,
  hello: Hello,
): Promise<ResolvedMachineDefinition> {
  mustNotDiffer([
    ...configuredDifferences(configuration, hello),
    ...(await bootFileDifferences(configuration, hello)),
  ]);
  return definitionHere(configuration, parseMachineDefinition(hello.definition, 'peer'));
}

function definitionHere(
  configuration: Configuration,
  sent: MachineDefinition,
): Promise<ResolvedMachineDefinition> {
  const { kernel } = sent;
  if (kernel === undefined) return resolveMachineDefinition(sent);
  const { image, initrd } = filesHere(configuration, kernel);
  return resolveMachineDefinition({
    ...sent,
    kernel: {
      image,
      ...(initrd === undefined ? {} : { initrd }),
      commandLine: kernel.commandLine,
    },
  });
}

async function compareFile(
  key: string,
  path: string,
  expected: string | null,
): Promise<ConfiguredDifference[]> {
  const what = `${key} ${path}`;
  try {
    const found = await digestFile(path);
    return found === expected ? [] : [{ what, source: 'another file', destination: 'this one' }];
  } catch (error) {
    const advice =
      `The secondary can't read ${what}: copy the primary's file there or name it with --${key} ` +
      `on the secondary (${describeError(error)})`;
    return [{ what, source: 'a file', destination: 'can not be read', advice }];
  }
}

/** Before anything of this host's images is changed. */
function judge(
  images: readonly PrimaryImage[],
  claims: readonly ImageClaim[],
): readonly AcceptedImage[] {
  const verdict = judgeDisks(images, claims);
  if (verdict.kind === 'resync') return verdict.disks;
  throw new OperatorError(IMAGE_AT_STAKE, verdict.reason);
}
