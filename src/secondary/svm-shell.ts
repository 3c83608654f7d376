/**
 * The SVM, launched from what the primary's hello says. It starts paused and silent.
 */
import { bootFiles, type Configuration, diskPlace, nicConnection } from '../config/index.js';
import {
  parseMachineDefinition,
  type ResolvedMachineDefinition,
  resolveMachineDefinition,
  StagingArea,
} from '../emulator/index.js';
import { type Guest, launchGuest } from '../guest/index.js';
import { type Logger, OperatorError, PAGE_SIZE_BYTES } from '../lib/index.js';
import { digestFile, type Hello } from '../replication/index.js';

/** A launched SVM. */
export interface Svm {
  readonly guest: Guest;
  /** Where the PVM's pages wait until their checkpoint is complete. */
  readonly staging: StagingArea;
}

/**
 * Launches it. Throws OperatorError or ProtocolError with what the primary's operator must know.
 */
export async function startSvm(
  configuration: Configuration,
  hello: Hello,
  parts: { readonly log: Logger; readonly lease: SharedArrayBuffer | undefined },
): Promise<Svm> {
  const { log, lease } = parts;
  const definition = await checkedDefinition(configuration, hello);
  const guest = await launchGuest({
    configuration,
    role: 'standby',
    disks: definition.disks.map(({ name, sizeBytes, readOnly }) => {
      return { ...diskPlace(configuration, name), sizeBytes, readOnly };
    }),
    nics: definition.nics.map(({ name }) => {
      const { tap, bridge } = nicConnection(configuration, name);
      return { tapName: tap, ...(bridge === undefined ? {} : { bridge }) };
    }),
    compareTimeoutUs: hello.policy.compareTimeoutUs,
    lease,
    define: async () => definition,
    log,
  });
  const { qemuVersion } = guest.emulator.description;
  if (qemuVersion !== hello.qemuVersion) {
    log.warn(`QEMU versions differ: ${qemuVersion} here, ${hello.qemuVersion} there`);
  }
  return { guest, staging: new StagingArea(guest.emulator.ram.sizeBytes) };
}

async function checkedDefinition(
  configuration: Configuration,
  hello: Hello,
): Promise<ResolvedMachineDefinition> {
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
