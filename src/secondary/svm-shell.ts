/**
 * The SVM and everything it stands on, launched from what the primary's hello says.
 *
 * It starts paused, on a private mapping of its RAM file, with its NICs silent: nothing of it can
 * be heard before a promotion. Stopped in reverse order; a start that fails half-way stops what it
 * had started.
 */
import { rm } from 'node:fs/promises';
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
  type Emulator,
  launchQemu,
  type MachineDefinition,
  makeRuntimeDir,
  type NicFds,
  parseMachineDefinition,
  resolveMachineDefinition,
  StagingArea,
} from '../emulator/index.js';
import { GuestDisks, type GuestDisksOptions, GuestNetwork } from '../guest/index.js';
import { type Logger, OperatorError, PAGE_SIZE_BYTES } from '../lib/index.js';
import { digestFile, type Hello } from '../replication/index.js';

/** A launched SVM. */
export interface Svm {
  readonly definition: MachineDefinition;
  readonly emulator: Emulator;
  readonly disks: GuestDisks;
  readonly network: GuestNetwork;
  readonly staging: StagingArea;
  /** Of the primary's images, for each disk that is not read-only. */
  readonly lineages: readonly Lineage[];
  /** What becomes of this host's images of these disks. */
  readonly verdicts: readonly AcceptedImage[];
  /** Kills the guest and releases everything. Idempotent. */
  stop(): Promise<void>;
}

/** Code of the refusal of a primary whose data would replace what only this host has. */
export const IMAGE_AT_STAKE = 'COLO_E_IMAGE_AT_STAKE';

/** What the SVM tells the node. */
export interface SvmHooks {
  /** The SVM's network is gone for good. */
  readonly onNetworkFailure: (error: Error) => void;
  readonly disks: Pick<GuestDisksOptions, 'onStaged' | 'onUnfit' | 'onSilent' | 'onFailure'>;
}

/**
 * Launches it. Throws OperatorError or ProtocolError with what the primary's operator must know.
 */
export async function startSvm(
  configuration: Configuration,
  hello: Hello,
  log: Logger,
  hooks: SvmHooks,
): Promise<Svm> {
  const definition = await checkedDefinition(configuration, hello);
  const images = parsePrimaryImages(hello.images);
  const cleanups: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  };
  try {
    const runtimeDir = await makeRuntimeDir(configuration.runDir, configuration.vm);
    cleanups.push(() => rm(runtimeDir, { recursive: true, force: true }));
    const context = {
      configuration,
      definition,
      runtimeDir,
      log,
      cleanups,
      hooks,
      compareTimeoutUs: hello.policy.compareTimeoutUs,
    };
    const { disks, diskSockets, claims } = await startDisks(context);
    const verdicts = judge(images, claims);
    const lineages = images.map(({ record }) => lineageOf(record));
    const { network, nicFds } = await startNetwork(context);
    const emulator = await launchQemu({
      definition,
      ramMapping: 'private',
      diskSockets,
      nicFds,
      runtimeDir,
      startPaused: true,
      tracker: configuration.tracker,
      ...(configuration.consoleLog === undefined ? {} : { consoleLog: configuration.consoleLog }),
      log,
    });
    cleanups.push(() => emulator.kill());
    network.closeQemuFds();
    if (emulator.description.qemuVersion !== hello.qemuVersion) {
      const versions = `${emulator.description.qemuVersion} here, ${hello.qemuVersion} there`;
      log.warn(`QEMU versions differ: ${versions}`);
    }
    const staging = new StagingArea(emulator.ram.sizeBytes);
    cleanups.push(async () => staging.close());
    return { definition, emulator, disks, network, staging, lineages, verdicts, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface Context {
  readonly configuration: Configuration;
  readonly definition: MachineDefinition;
  readonly runtimeDir: string;
  readonly log: Logger;
  readonly cleanups: (() => Promise<unknown>)[];
  readonly hooks: SvmHooks;
  /** For the day when the SVM is the PVM. */
  readonly compareTimeoutUs: number;
}

async function checkedDefinition(
  configuration: Configuration,
  hello: Hello,
): Promise<MachineDefinition> {
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
  const { kernel } = sent;
  if (kernel === undefined) return resolveMachineDefinition(sent);
  const image = here.kernel ?? kernel.image;
  const initrd = here.initrd ?? kernel.initrd;
  await checkFile('kernel', image, hello.kernelSha256);
  if (initrd !== undefined) await checkFile('initrd', initrd, hello.initrdSha256);
  return resolveMachineDefinition({
    ...sent,
    kernel: {
      image,
      ...(initrd === undefined ? {} : { initrd }),
      commandLine: kernel.commandLine,
    },
  });
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

async function startDisks(context: Context): Promise<{
  disks: GuestDisks;
  diskSockets: readonly string[];
  claims: readonly ImageClaim[];
}> {
  const { configuration, definition, runtimeDir, log, cleanups, hooks } = context;
  const disks = new GuestDisks({ log, ...hooks.disks });
  cleanups.push(() => disks.stop());
  const { sockets, claims } = await disks.start({
    role: 'standby',
    host: configuration.host,
    disks: definition.disks.map(({ name, sizeBytes, readOnly }) => {
      return { ...diskPlace(configuration, name), sizeBytes, readOnly };
    }),
    socketDirectory: runtimeDir,
    vm: configuration.vm,
    stateDirectory: configuration.stateDir,
  });
  return { disks, diskSockets: sockets, claims };
}

async function startNetwork(
  context: Context,
): Promise<{ network: GuestNetwork; nicFds: NicFds[] }> {
  const { configuration, definition, log, cleanups } = context;
  const nics = definition.nics.map(({ name }) => {
    const { tap, bridge } = nicConnection(configuration, name);
    return { tapName: tap, ...(bridge === undefined ? {} : { bridge }) };
  });
  const network = new GuestNetwork({
    log,
    // Nothing is compared before a session of its own.
    onCheckpointNeeded: () => undefined,
    onFailure: (error) => context.hooks.onNetworkFailure(error),
  });
  cleanups.push(() => network.stop());
  const nicFds = await network.start({
    nics,
    compareTimeoutUs: context.compareTimeoutUs,
    live: false,
  });
  return { network, nicFds };
}
