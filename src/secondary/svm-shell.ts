/** The SVM, launched from what the primary's hello says. It starts paused and silent. */
import type { Configuration } from '../config/index.js';
import { parseMachineDefinition, StagingArea } from '../emulator/index.js';
import {
  type LeftGuestRam,
  type ReceivedGuest,
  type ReceiveOptions,
  receiveGuest,
  sharedDisks,
} from '../guest/index.js';
import { OperatorError } from '../lib/index.js';
import type { Hello } from '../replication/index.js';
import type { Link } from '../transport/index.js';
import { RamDigests } from './ram-digests-shell.js';

/** A launched SVM. */
export interface Svm extends ReceivedGuest {
  /** Where the PVM's pages wait until their checkpoint is complete. */
  readonly staging: StagingArea;
}

/** What it is launched with. */
export interface SvmParts extends Pick<ReceiveOptions, 'log' | 'lease'> {
  readonly leftRam: LeftGuestRam;
}

/** Throws as `receiveGuest` does. */
export async function startSvm(
  configuration: Configuration,
  hello: Hello,
  { leftRam, ...parts }: SvmParts,
): Promise<Svm> {
  refuseShared(configuration, hello);
  const compares = hello.ramDigests !== undefined;
  // A primary that does not compare takes RAM for empty, and the SVM needs the memory.
  if (!compares) leftRam.discard();
  const given = { ...parts, role: 'standby', leftRam: compares ? leftRam : undefined } as const;
  const received = await receiveGuest(configuration, hello, given);
  return { ...received, staging: new StagingArea(received.guest.emulator.ram.sizeBytes) };
}

/** Undefined if the SVM's RAM is empty. */
export function digestsOf({ guest }: Svm, hello: Hello, link: Link): RamDigests | undefined {
  if (guest.past.hasLeftRam !== true || hello.ramDigests === undefined) return undefined;
  const salt = Buffer.from(hello.ramDigests.salt, 'hex');
  return new RamDigests({ link, ram: guest.emulator.ram, salt, epoch: hello.epoch });
}

/** With `leftRam` its RAM is kept there. */
export async function stopSvm({ guest, staging }: Svm, leftRam?: LeftGuestRam): Promise<void> {
  staging.close();
  await leftRam?.keep(guest, 'file');
  await guest.stop();
}

function refuseShared(configuration: Configuration, hello: Hello): void {
  const { disks } = parseMachineDefinition(hello.definition, 'peer');
  const [shared] = sharedDisks(configuration, disks);
  if (shared === undefined) return;
  throw new OperatorError(
    'COLO_E_DISK_SHARED',
    `Disk ${shared.name} has shared=on here: a secondary needs an image of its own`,
  );
}
