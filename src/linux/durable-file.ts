/** Files that are whole whenever the host loses power: the old contents or the new ones. */
import { open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Durable when it resolves: a temporary file, synced, renamed, its folder synced. Mode 0600. */
export async function writeDurably(path: string, contents: string | Buffer): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', 0o600);
  try {
    // Whatever the umask says, and whoever has left a temporary file there.
    await file.chmod(0o600);
    await file.writeFile(contents);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  await syncDirectory(dirname(path));
}

/** The names in the folder are durable when it resolves. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
