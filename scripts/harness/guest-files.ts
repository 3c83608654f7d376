/** The built test guest (scripts/build-guest): where its files are and how to boot it. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './child.js';

const BUILD_DEADLINE_MS = 1_200_000;

export interface GuestFiles {
  /** Read-only: a run works on a copy of it. */
  readonly image: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly commandLine: string;
}

/** Builds the guest unless it is built. `root` is the source tree. */
export async function guestFiles(root: string): Promise<GuestFiles> {
  const build = [join(root, 'scripts/build-guest')];
  const directory = (await run(build, { deadlineMs: BUILD_DEADLINE_MS, stderr: 'inherit' })).trim();
  const manifest = JSON.parse(await readFile(join(directory, 'manifest.json'), 'utf8')) as {
    commandLine: string;
  };
  return {
    image: join(directory, 'root.img'),
    kernel: join(directory, 'vmlinuz'),
    initrd: join(directory, 'initrd.img'),
    commandLine: manifest.commandLine,
  };
}

/** A copy that shares nothing with the original but takes only the room that its data needs. */
export async function copyImage(from: string, to: string): Promise<void> {
  await run(['cp', '--sparse=always', '--reflink=auto', from, to]);
}
