/** Makes and checks what proof.ts describes. */
import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, open, readdir, readFile, realpath, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { describeError, OperatorError } from '../../lib/index.js';
import { dropCached } from '../../linux/index.js';
import { deviceNumbers } from '../device-number.js';
import { errnoOf } from '../errors.js';
import { PROOF_SAMPLE_BYTES } from '../limits.js';
import { type DeviceProof, deviceDifference, type SharedProof, sampleOffsets } from './proof.js';

/** A shared disk on this host. */
export interface SharedPlace {
  readonly name: string;
  readonly path: string;
  readonly sizeBytes: number;
}

const SUFFIX = '.colo-shared';
const WORD_BYTES = 32;

/** What a source shows; `remove` once the destination has answered. */
export class SharedProofs {
  readonly #marks: string[] = [];
  readonly proofs: SharedProof[] = [];

  /**
   * `migration`: its id; `flush` makes durable what the guest has written to the images. Throws
   * OperatorError COLO_E_DISK_SHARED, and what `flush` throws.
   */
  static async make(
    places: readonly SharedPlace[],
    { migration, flush }: { readonly migration: string; readonly flush: () => Promise<void> },
  ): Promise<SharedProofs> {
    const made = new SharedProofs();
    try {
      for (const place of places) {
        const path = await realpath(place.path);
        if ((await stat(path)).isBlockDevice()) {
          // The other host reads the device, not this one's cache.
          await flush();
          made.proofs.push(await proveDevice(place, path));
        } else made.proofs.push(await made.#proveFile(place.name, path, migration));
      }
      return made;
    } catch (cause) {
      await made.remove();
      if (!(cause instanceof Error && 'syscall' in cause)) throw cause;
      throw new OperatorError(
        'COLO_E_DISK_SHARED',
        `The agent can't show that the disks are shared: ${describeError(cause)}; let it write ` +
          'beside the images',
        { cause },
      );
    }
  }

  /** Idempotent; what can't be removed is by the next migration. */
  async remove(): Promise<void> {
    for (const path of this.#marks.splice(0))
      await rm(path, { force: true }).catch(() => undefined);
  }

  /** Closing it lets the other host see it (NFS: close-to-open); it need not survive a crash. */
  async #proveFile(disk: string, path: string, migration: string): Promise<SharedProof> {
    await removeOld(path);
    // A name of its own: what a host remembers of names that were not there is of other ones.
    const mark = markPath(path, migration);
    const word = randomBytes(WORD_BYTES).toString('hex');
    const file = await open(mark, 'wx', 0o644);
    this.#marks.push(mark);
    try {
      await file.writeFile(word);
    } finally {
      await file.close();
    }
    return { kind: 'file', disk, word };
  }
}

/** Why this host's image is not the source's; undefined: it is. Never rejects for what it finds. */
export async function sharedDifference(
  place: SharedPlace,
  proof: SharedProof | undefined,
  migration: string,
): Promise<string | undefined> {
  if (proof === undefined) return 'the source has not shown it';
  try {
    const path = await realpath(place.path);
    const found = await stat(path);
    const isDevice = found.isBlockDevice();
    if (isDevice !== (proof.kind === 'block')) {
      return `it is a ${isDevice ? 'block device' : 'file'}, the source's a ${proof.kind}`;
    }
    await access(path, constants.R_OK | constants.W_OK);
    if (proof.kind === 'block') return deviceDifference(proof, await proveDevice(place, path));
    if (found.size !== place.sizeBytes) return `it has ${found.size} bytes`;
    return await fileDifference(markPath(path, migration), proof.word);
  } catch (error) {
    return describeError(error);
  }
}

async function fileDifference(mark: string, word: string): Promise<string | undefined> {
  try {
    const found = await readFile(mark, 'utf8');
    return found === word ? undefined : `${mark} is not what the source has written`;
  } catch (error) {
    if (errnoOf(error as Error) !== 'ENOENT') throw error;
    return `${basename(mark)}, which the source has written, is not in ${dirname(mark)}`;
  }
}

function markPath(image: string, migration: string): string {
  return `${image}.${migration}${SUFFIX}`;
}

/** Of sources that died. Whoever runs the guest is the only one who makes them. */
async function removeOld(image: string): Promise<void> {
  const [directory, name] = [dirname(image), basename(image)];
  for (const found of await readdir(directory)) {
    if (!found.startsWith(`${name}.`) || !found.endsWith(SUFFIX)) continue;
    await rm(join(directory, found), { force: true });
  }
}

async function proveDevice(place: SharedPlace, path: string): Promise<DeviceProof> {
  const file = await open(path, 'r');
  try {
    // Another host may have written since this one has read.
    dropCached(file.fd);
    const samples: string[] = [];
    for (const offset of sampleOffsets(place.sizeBytes)) {
      const { buffer } = await file.read(Buffer.alloc(PROOF_SAMPLE_BYTES), 0, undefined, offset);
      samples.push(createHash('sha256').update(buffer).digest('hex'));
    }
    const identity = (await identityOf((await file.stat()).rdev)) ?? null;
    return { kind: 'block', disk: place.name, identity, samples };
  } finally {
    await file.close();
  }
}

/** Kernel, Documentation/ABI: what sysfs tells of a device, by its numbers. */
async function identityOf(device: number): Promise<string | undefined> {
  const { major, minor } = deviceNumbers(device);
  const folder = `/sys/dev/block/${major}:${minor}`;
  for (const [kind, name] of [
    ['dm', 'dm/uuid'],
    ['wwid', 'device/wwid'],
    ['wwid', 'wwid'],
  ]) {
    const text = await readFile(`${folder}/${name}`, 'utf8').catch(() => '');
    if (text.trim() !== '') return `${kind} ${text.trim()}`;
  }
  return undefined;
}
