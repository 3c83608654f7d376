/**
 * By which both hosts know that they boot the guest from the same files. A digest is remembered
 * for as long as its file is the same: whoever asks again need not read tens of megabytes.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { fileState } from '../linux/index.js';

/** By path: of how many files there are, an agent asks for two. */
const known = new Map<string, { readonly state: string; readonly digest: Promise<string> }>();

/** SHA-256 in hexadecimal of a file; null without one. Rejects with the file system's error. */
export async function digestFile(path: string | undefined): Promise<string | null> {
  if (path === undefined) return null;
  const state = await stateOf(path);
  const before = known.get(path);
  if (before?.state === state) return before.digest;
  const digest = readDigest(path);
  known.set(path, { state, digest });
  try {
    const found = await digest;
    // Written to meanwhile: the next one reads it again.
    if ((await stateOf(path)) !== state) known.delete(path);
    return found;
  } catch (error) {
    known.delete(path);
    throw error;
  }
}

async function stateOf(path: string): Promise<string> {
  return fileState(await stat(path, { bigint: true })).join(' ');
}

async function readDigest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
