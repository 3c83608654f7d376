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
  type ResolvedMachineDefinition,
  resolveMachineDefinition,
} from '../emulator/index.js';
import { type Logger, OperatorError, PAGE_SIZE_BYTES } from '../lib/index.js';
import { digestFile, type Hello } from '../replication/index.js';
import type { Guest } from './guest.js';
import { type LaunchOptions, launchGuest } from './launch-guest-shell.js';

/** What came of a hello. */
export interface ReceivedGuest {
  readonly guest: Guest;
  /** Of the other host's images, for each disk that is not read-only. */
  readonly lineages: readonly Lineage[];
  /** What becomes of this host's images of these disks. */
  readonly verdicts: readonly AcceptedImage[];
}

export interface ReceiveOptions extends Pick<LaunchOptions, 'lacksPages'> {
  readonly role: 'standby' | 'arriving';
  readonly lease: SharedArrayBuffer | undefined;
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
  const sent = checkedDefinition(configuration, hello);
  // What takes time goes on beside the start of disks and NICs.
  const checking = completedDefinition(configuration, hello, sent);
  checking.catch(() => undefined);
  const images = parsePrimaryImages(hello.images);
  let verdicts: readonly AcceptedImage[] = [];
  const guest = await launchGuest({
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
      const definition = await checking;
      verdicts = judge(images, claims);
      return definition;
    },
  });
  const { qemuVersion } = guest.emulator.description;
  if (qemuVersion !== hello.qemuVersion) {
    log.warn(`QEMU versions differ: ${qemuVersion} here, ${hello.qemuVersion} there`);
  }
  return { guest, lineages: images.map(({ record }) => lineageOf(record)), verdicts };
}

function checkedDefinition(configuration: Configuration, hello: Hello): MachineDefinition {
  refuseUnless(hello.vm === configuration.vm, 'vm', hello.vm, configuration.vm);
  const pageSize = String(PAGE_SIZE_BYTES);
  refuseUnless(
    hello.pageSizeBytes === PAGE_SIZE_BYTES,
    'page size',
    String(hello.pageSizeBytes),
    pageSize,
  );
  const sent = parseMachineDefinition(hello.definition, 'peer');
  const here = bootFiles(configuration);
  const [theirs, ours] = [sent.extraArguments, here.qemuArguments].map((list) =>
    JSON.stringify(list),
  );
  refuseUnless(theirs === ours, 'list of qemu-arg', theirs ?? '', ours ?? '');
  return sent;
}

/** With this host's boot files, which must be the same, and what its QEMU makes of the rest. */
async function completedDefinition(
  configuration: Configuration,
  hello: Hello,
  sent: MachineDefinition,
): Promise<ResolvedMachineDefinition> {
  const { kernel } = sent;
  const here = bootFiles(configuration);
  if (kernel === undefined) return resolveMachineDefinition(sent);
  const image = here.kernel ?? kernel.image;
  const initrd = here.initrd ?? kernel.initrd;
  const [resolved] = await Promise.all([
    resolveMachineDefinition(sent),
    checkFile('kernel', image, hello.kernelSha256),
    initrd === undefined ? undefined : checkFile('initrd', initrd, hello.initrdSha256),
  ]);
  return {
    ...resolved,
    kernel: {
      image,
      ...(initrd === undefined ? {} : { initrd }),
      commandLine: kernel.commandLine,
    },
  };
}

function refuseUnless(fits: boolean, what: string, theirs: string, ours: string): void {
  if (fits) return;
  throw new OperatorError(
    'COLO_E_PEER_DIFFERS',
    `The primary's ${what} is ${theirs}, the secondary's ${ours}`,
  );
}

async function checkFile(key: string, path: string, expected: string | null): Promise<void> {
  let found: string | null;
  try {
    found = await digestFile(path);
  } catch (cause) {
    const advice = `copy the primary's file there or name it with --${key} on the secondary`;
    throw new OperatorError(
      'COLO_E_PEER_DIFFERS',
      `The secondary can't read ${key} ${path}: ${advice}`,
      { cause },
    );
  }
  refuseUnless(found === expected, `${key} ${path}`, 'another file', 'this one');
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
