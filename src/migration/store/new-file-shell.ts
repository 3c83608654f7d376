/**
 * A file that appears under its name only when it is whole and durable; until then, and after a
 * failure, there is nothing but a file with another name, which the next attempt removes.
 */
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncDirectory } from '../../linux/index.js';

export const PARTIAL_SUFFIX = '.partial';

/**
 * Calls `fill` with a new file of mode 0600, then makes it durable under `path`, in place of what
 * is there. Whatever `fill` or the system throws is passed on, and nothing is left behind.
 */
export async function createDurably<T>(
  path: string,
  fill: (file: FileHandle) => Promise<T>,
): Promise<T> {
  const partial = path + PARTIAL_SUFFIX;
  await rm(partial, { force: true });
  // Exclusive: a link that somebody put there in between is not followed.
  const file = await open(partial, 'wx+', 0o600);
  try {
    let result: T;
    try {
      result = await fill(file);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(partial, path);
    await syncDirectory(dirname(path));
    return result;
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

/** All of `bytes` at `position`. */
export async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Fills `target` from `position` on; fewer bytes only at the end of the file. Returns how many. */
export async function readFull(
  file: FileHandle,
  target: Buffer,
  position: number,
): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const { bytesRead } = await file.read(target, done, target.length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}
