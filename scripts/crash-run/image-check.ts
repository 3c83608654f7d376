/**
 * Looks at an image that a crash or a power-off has left: always on a copy, nothing is mounted.
 *
 *   1. a secondary's image: its journal is replayed, by the code that a secondary does it with;
 *      the same journal must make the same bytes of a copy that was taken before the load, which
 *      stands for an image that lost everything that was written to it since and not synced;
 *   2. ext4's own journal is replayed, as a mount would do it;
 *   3. `fsck.ext4 -fn` must find nothing;
 *   4. the workload's files are taken out of the file system.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ImageFile, SecondaryDisks } from '../../src/blockrep/index.js';
import { describeError, type Logger } from '../../src/lib/index.js';
import { run } from '../harness/child.js';
import { copyImage } from '../harness/guest-files.js';
import {
  type Contents,
  type FoundFile,
  foundFile,
  foundLoad,
  parseAppendOnlyFile,
  sha256Hex,
} from './contents.js';

/** e2fsck's exit code: 1 says that something was repaired, here by the journal. */
const REPAIRED = 1;
const REDIS_DIRECTORY = '/var/lib/colo-redis/appendonlydir';
const LOAD_FILE = '/var/lib/colo-load';

export interface CrashedImage {
  readonly path: string;
  /** Of a secondary: where its journal is, and the guest's name. */
  readonly journal?: { readonly directory: string; readonly vm: string };
  /** Gets the copies; removed by `dispose`. */
  readonly workDirectory: string;
  /** Of a secondary: `takeEarly` was called before. */
  readonly early?: EarlyImage;
}

/** A copy of a secondary's image, made while it was written to. */
export interface EarlyImage {
  readonly path: string;
  readonly takenMs: number;
}

export interface CheckedImage {
  /** The image is at its end; undefined without a journal, or if that told nothing. */
  readonly epoch: number | undefined;
  /** Epochs that only the journal had as a whole. */
  readonly replayed: number;
  /** The early copy became the same; false: the journal had forgotten some of its epochs. */
  readonly rebuilt: boolean;
  readonly problems: readonly string[];
  readonly contents: Contents;
  /** See AppendOnlyFile. */
  readonly zeroTail: boolean;
}

/** Copies a protecting secondary's image, which was synchronised since its agent was started. */
export async function takeEarly(image: string, directory: string): Promise<EarlyImage> {
  const takenMs = Date.now();
  await mkdir(directory, { recursive: true });
  const path = join(directory, basename(image));
  await copyImage(image, path);
  return { path, takenMs };
}

/** Copies what is there now; nobody may write to it meanwhile. */
export async function takeImage(image: CrashedImage): Promise<void> {
  await mkdir(image.workDirectory, { recursive: true });
  await copyImage(image.path, copyOf(image));
  await takeJournals(image, image.workDirectory);
}

async function takeJournals({ journal }: CrashedImage, to: string): Promise<void> {
  if (journal === undefined) return;
  for (const name of await readdir(journal.directory)) {
    if (!name.startsWith(`${journal.vm}.journal-`)) continue;
    await copyImage(join(journal.directory, name), join(to, name));
  }
}

/**
 * Looks at what `takeImage` has copied. `directories` are the writers'; `epochsSince` tells how many
 * epochs have ended since a time.
 */
export async function checkImage(
  image: CrashedImage,
  directories: readonly string[],
  epochsSince: (ms: number) => number,
): Promise<CheckedImage> {
  const problems: string[] = [];
  const copy = copyOf(image);
  const { early } = image;
  const { epoch, replayed } = await replayJournal(image, copy, problems);
  let rebuilt = false;
  if (early !== undefined && replayed >= epochsSince(early.takenMs)) {
    // The one beside the image has been emptied; the original is still where it was.
    await takeJournals(image, dirname(early.path));
    await replayJournal(image, early.path, problems);
    rebuilt = await tell(problems, ['cmp', copy, early.path], []);
  }
  // What a mount does: the journal, and inodes that were deleted while they were open. Without -f
  // it looks for nothing else, unless the kernel has noted an error in the file system.
  await tell(problems, ['e2fsck', '-p', copy], [REPAIRED]);
  await tell(problems, ['fsck.ext4', '-fn', copy], []);
  return {
    epoch,
    replayed,
    rebuilt,
    problems,
    ...(await readContents(image, directories, problems)),
  };
}

/** Removes the copies. */
export async function dispose({ workDirectory, early }: CrashedImage): Promise<void> {
  await rm(workDirectory, { recursive: true, force: true });
  if (early !== undefined) await rm(dirname(early.path), { recursive: true, force: true });
}

function copyOf({ path, workDirectory }: CrashedImage): string {
  return join(workDirectory, basename(path));
}

/** With the journal beside the copy. */
async function replayJournal(
  image: CrashedImage,
  copy: string,
  problems: string[],
): Promise<{ epoch: number | undefined; replayed: number }> {
  let replayed = 0;
  const nothing = (): void => undefined;
  const note = (_message: string, fields: Record<string, unknown> = {}): void => {
    if (typeof fields['epochs'] === 'number') replayed = fields['epochs'];
  };
  const log: Logger = { debug: nothing, info: note, warn: nothing, error: nothing };
  if (image.journal === undefined) return { epoch: undefined, replayed };
  const opened = await ImageFile.open({ path: copy });
  try {
    const { vm } = image.journal;
    const directory = dirname(copy);
    const disks = await SecondaryDisks.open({ vm, images: [opened], directory, log });
    const epoch = disks.recoveredEpoch;
    await disks.close();
    return { epoch, replayed };
  } catch (error) {
    await opened.close();
    problems.push(`The journal can't be replayed: ${describeError(error)}`);
    return { epoch: undefined, replayed };
  }
}

/** A command that must end with 0, or with one of `codes`; false if it did not. */
async function tell(
  problems: string[],
  command: readonly string[],
  codes: readonly number[],
): Promise<boolean> {
  try {
    await run(command);
    return true;
  } catch (error) {
    const { message } = error as Error;
    if (codes.some((code) => message.includes(`: exit code ${code}: `))) return true;
    problems.push(message);
    return false;
  }
}

async function readContents(
  image: CrashedImage,
  directories: readonly string[],
  problems: string[],
): Promise<{ contents: Contents; zeroTail: boolean }> {
  const files = new Map<string, FoundFile>();
  let zeroTail = false;
  const sets = new Map<string, string>();
  for (const directory of directories) {
    for (const [name, bytes] of await dump(image, directory)) {
      // A new version that has not got its name yet.
      if (name.startsWith('new-')) continue;
      const firstLine = bytes.toString('latin1').split('\n', 1)[0] ?? '';
      files.set(`${directory}/${name}`, foundFile(name, firstLine, sha256Hex(bytes)));
    }
  }
  for (const [name, bytes] of await dump(image, REDIS_DIRECTORY)) {
    if (!name.endsWith('.aof')) continue;
    try {
      const file = parseAppendOnlyFile(bytes);
      zeroTail ||= file.zeroTail;
      for (const [key, value] of file.sets) sets.set(key, value);
    } catch (error) {
      problems.push(`${name} is broken: ${describeError(error)}`);
    }
  }
  const load = [...(await dump(image, LOAD_FILE)).values()][0] ?? Buffer.alloc(0);
  return { contents: { sets, files, load: foundLoad(load) }, zeroTail };
}

/** The files below a path of the image, or the file itself, by name; nothing if there is none. */
async function dump(image: CrashedImage, path: string): Promise<Map<string, Buffer>> {
  const target = join(image.workDirectory, 'files');
  await rm(target, { recursive: true, force: true });
  await mkdir(target);
  await run(['debugfs', '-R', `rdump ${path} ${target}`, copyOf(image)]);
  const found = new Map<string, Buffer>();
  for (const entry of await readdir(target, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    found.set(entry.name, await readFile(join(entry.parentPath, entry.name)));
  }
  await rm(target, { recursive: true });
  return found;
}
