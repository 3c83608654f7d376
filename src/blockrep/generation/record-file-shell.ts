/** The generation file of one image, and what it is compared with: the image and this boot. */
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatorError } from '../../lib/index.js';
import { writeDurably } from '../../linux/index.js';
import { GENERATION_FILE_BYTES_MAX } from '../limits.js';
import { discardCommand } from './judge.js';
import { decodeRecord, encodeRecord, type GenerationRecord, type ImageIdentity } from './record.js';

/** Whose image a file should describe. */
export interface RecordOwner {
  readonly vm: string;
  readonly disk: string;
  readonly sizeBytes: number;
}

export function generationPath(stateDir: string, vm: string, disk: string): string {
  return join(stateDir, `${vm}.${disk}.generation`);
}

export function changeMapPath(stateDir: string, vm: string, disk: string): string {
  return join(stateDir, `${vm}.${disk}.changes`);
}

/** Undefined when there is no file. Throws OperatorError when it is not what it should be. */
export async function readRecord(
  path: string,
  owner: RecordOwner,
): Promise<GenerationRecord | undefined> {
  const bytes = await readBounded(path);
  if (bytes === undefined) return undefined;
  const decoded = decodeRecord(bytes);
  if (!decoded.ok) throw damaged(path, owner, decoded);
  const { record } = decoded;
  for (const key of ['vm', 'disk', 'sizeBytes'] as const) {
    if (record[key] === owner[key]) continue;
    const found = `${key} ${JSON.stringify(record[key])}`;
    throw damaged(path, owner, { found, expected: `${key} ${JSON.stringify(owner[key])}` });
  }
  return record;
}

/**
 * The records of all of a guest's images in a folder, whatever their sizes; none without a folder.
 * Throws OperatorError for a damaged one.
 */
export async function readRecords(stateDir: string, vm: string): Promise<GenerationRecord[]> {
  const names = await readdir(stateDir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  const records: GenerationRecord[] = [];
  for (const name of names.sort()) {
    if (!name.startsWith(`${vm}.`) || !name.endsWith('.generation')) continue;
    const path = join(stateDir, name);
    const bytes = await readBounded(path);
    if (bytes === undefined) continue;
    const decoded = decodeRecord(bytes);
    const disk = name.slice(vm.length + 1, -'.generation'.length);
    if (!decoded.ok) throw damaged(path, { vm, disk, sizeBytes: 0 }, decoded);
    if (decoded.record.vm === vm) records.push(decoded.record);
  }
  return records;
}

/** Durable when it resolves, and never half a record. */
export async function writeRecord(path: string, record: GenerationRecord): Promise<void> {
  await writeDurably(path, encodeRecord(record));
}

/** The file itself and when it was last written; look after the last write is durable. */
export async function identifyImage(path: string): Promise<ImageIdentity> {
  const found = await stat(path, { bigint: true });
  return {
    kind: found.isBlockDevice() ? 'block' : 'file',
    device: String(found.dev),
    inode: String(found.ino),
    modifiedNs: String(found.mtimeNs),
  };
}

/** Another one after each boot of the host (random(4)). */
export async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

async function readBounded(path: string): Promise<Buffer | undefined> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return withFile(file, async () => {
    const bytes = Buffer.alloc(GENERATION_FILE_BYTES_MAX + 1);
    let length = 0;
    while (length < bytes.length) {
      const { bytesRead } = await file.read(bytes, length, bytes.length - length, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    // One byte too long is no JSON, whatever it is.
    return bytes.subarray(0, length);
  });
}

async function withFile<T>(file: FileHandle, work: (file: FileHandle) => Promise<T>): Promise<T> {
  try {
    return await work(file);
  } finally {
    await file.close();
  }
}

function damaged(
  path: string,
  { vm, disk }: RecordOwner,
  { found, expected }: { found: string; expected: string },
): OperatorError {
  return new OperatorError(
    'COLO_E_GENERATION_FILE',
    `The generation file ${path} has ${found}, where ${expected} is expected; ` +
      `to give this host's image up for its peer's run "${discardCommand(vm, disk)}" here, ` +
      `to go on from this image without its history run "rm ${path}"`,
  );
}
