/**
 * `colo discard-image`: finds the images of a VM on this host, as its agents do, and marks them as
 * given up. Nothing in them is changed; the next synchronisation may overwrite them.
 *
 *   --config FILE, or /etc/colo/*.conf of that VM -> image paths, state directory
 *   records in the state directory                -> disks that no key names
 */
import { join } from 'node:path';
import { discardImage } from '../blockrep/index.js';
import {
  type Configuration,
  ConfigurationError,
  type DiskSetting,
  diskPlace,
  resolveConfiguration,
} from '../config/index.js';
import { describeError, OperatorError } from '../lib/index.js';
import type { DiscardWish } from './colo-arguments.js';

/** What of this host is needed. */
export interface DiscardHost {
  readonly hostname: string;
  readonly readFile: (path: string) => Uint8Array | undefined;
  /** File names in a folder; none when there is no such folder. */
  readonly list: (folder: string) => Promise<string[]>;
}

/** Images to give up. */
export interface DiscardPlan {
  readonly vm: string;
  readonly host: string;
  readonly stateDir: string;
  readonly disks: readonly DiskSetting[];
}

/** One that was given up. */
export interface DiscardedDisk {
  readonly disk: string;
  readonly image: string;
  readonly record: string;
  /** Where the record is that it had; null if it had none. */
  readonly kept: string | null;
}

const CONFIGURATION_FOLDER = '/etc/colo';
const STATE_DIR = '/var/lib/colo';

/** Throws OperatorError when the images can't be told. */
export async function planDiscard(wish: DiscardWish, host: DiscardHost): Promise<DiscardPlan> {
  const { vm, disk, image } = wish;
  if (image !== undefined && disk !== undefined) {
    const stateDir = wish.stateDir ?? STATE_DIR;
    return { vm, host: host.hostname, stateDir, disks: [{ name: disk, path: image }] };
  }
  const configuration = await findConfiguration(wish, host);
  const stateDir = wish.stateDir ?? configuration.stateDir;
  const names = disk === undefined ? await diskNames(configuration, stateDir, host) : [disk];
  if (names.length === 0) {
    throw refused(`found no disk of ${vm} on this host, expected one; name it with --disk`);
  }
  const disks = names.map((name) => diskPlace(configuration, name));
  return { vm, host: configuration.host, stateDir, disks };
}

/** One after the other. Throws OperatorError for the first that can't be, saying why. */
export async function carryOutDiscard(plan: DiscardPlan): Promise<DiscardedDisk[]> {
  const { vm, host, stateDir } = plan;
  const done: DiscardedDisk[] = [];
  for (const { name: disk, path, format } of plan.disks) {
    try {
      const { recordPath, keptPath } = await discardImage({
        ...{ stateDir, vm, disk, host, imagePath: path },
        ...(format === undefined ? {} : { format }),
      });
      done.push({ disk, image: path, record: recordPath, kept: keptPath ?? null });
    } catch (error) {
      if (error instanceof OperatorError || !isErrno(error)) throw error;
      throw refused(`the record of disk ${disk} can't be written: ${describeError(error)}`);
    }
  }
  return done;
}

async function findConfiguration(wish: DiscardWish, host: DiscardHost): Promise<Configuration> {
  const { vm, config } = wish;
  if (config !== undefined) {
    const found = readAs(config, vm, host);
    if (found instanceof ConfigurationError) throw refused(found.message);
    return found;
  }
  const listed = (await host.list(CONFIGURATION_FOLDER)).filter((name) => name.endsWith('.conf'));
  const files = listed.map((name) => join(CONFIGURATION_FOLDER, name));
  const named = files.filter((file) => isOf(file, vm, host));
  const [file] = named;
  const where = `of ${vm} in ${CONFIGURATION_FOLDER}`;
  if (file === undefined) {
    throw refused(`found no configuration ${where}, expected one; name it with --config`);
  }
  if (named.length > 1) {
    throw refused(`found ${named.join(', ')} ${where}, expected one; choose it with --config`);
  }
  return findConfiguration({ ...wish, config: file }, host);
}

/** By what it says, or, as a service's, by its name. */
function isOf(file: string, vm: string, host: DiscardHost): boolean {
  if (file === join(CONFIGURATION_FOLDER, `${vm}.conf`)) return true;
  const found = readAs(file, undefined, host);
  return !(found instanceof ConfigurationError) && found.vm === vm;
}

/** As the agent for which it has the fewest mistakes. */
function readAs(
  file: string,
  vm: string | undefined,
  { hostname, readFile }: DiscardHost,
): Configuration | ConfigurationError {
  const argv = ['--config', file, ...(vm === undefined ? [] : ['--vm', vm])];
  const errors: ConfigurationError[] = [];
  for (const role of ['primary', 'secondary'] as const) {
    try {
      return resolveConfiguration({ role, argv, env: {}, hostname, readFile });
    } catch (error) {
      if (!(error instanceof ConfigurationError)) throw error;
      errors.push(error);
    }
  }
  errors.sort((a, b) => a.problems.length - b.problems.length);
  return errors[0] as ConfigurationError;
}

async function diskNames(
  configuration: Configuration,
  stateDir: string,
  host: DiscardHost,
): Promise<string[]> {
  const written = configuration.disks.filter(({ readOnly }) => readOnly !== true);
  const names = new Set(written.map(({ name }) => name));
  const [before, after] = [`${configuration.vm}.`, '.generation'];
  for (const file of (await host.list(stateDir)).sort()) {
    const isRecord = file.startsWith(before) && file.endsWith(after);
    const name = file.slice(before.length, -after.length);
    if (isRecord && name !== '' && !name.includes('.')) names.add(name);
  }
  return [...names];
}

function isErrno(error: unknown): boolean {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).errno === 'number';
}

function refused(message: string): OperatorError {
  return new OperatorError('COLO_E_DISCARD', message);
}
