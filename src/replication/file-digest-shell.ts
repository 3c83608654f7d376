/** By which both hosts know that they boot the guest from the same files. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';

/** SHA-256 in hexadecimal of a file; null without one. Rejects with the file system's error. */
export async function digestFile(path: string | undefined): Promise<string | null> {
  if (path === undefined) return null;
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
