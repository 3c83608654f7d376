/**
 * The backup file of a postcopy whose network does not come back: written by the source with the
 * pages that the destination lacks, read at the destination after somebody carried it there.
 *
 * Writing: RAM -> pages/page-encoder.ts -> lz4 -> file, one batch at a time. Reading: everything is
 * verified before `openBackup` resolves, so that a broken file changes nothing; then `apply` reads
 * it again, each batch checked once more. Memory is bounded by a few batches and a bitmap.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { ProtocolError } from '../../lib/index.js';
import { compressBatch } from '../pages/batch-compression.js';
import { BATCH_BYTES_MAX, decodeBatch, encodeBatch, type PageBatch } from '../pages/page-batch.js';
import { PageBitmap } from '../pages/page-bitmap.js';
import { PageDecoder, type PageTarget } from '../pages/page-decoder.js';
import { PageEncoder, type PageSource } from '../pages/page-encoder.js';
import {
  BACKUP_HEADER_BYTES,
  BATCH_LENGTH_BYTES,
  type BackupHeader,
  decodeBackupHeader,
  encodeBackupHeader,
} from './backup-format.js';
import { BackupError } from './errors.js';
import { createDurably, readFull, writeAll } from './new-file-shell.js';

/** Of one operation; both are optional. */
export interface StoreProgress {
  /** After each step: pages that are done, of how many. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Ends the operation with its reason; a file that is being written is removed. */
  readonly signal?: AbortSignal;
}

export interface WriteBackupOptions extends StoreProgress {
  readonly path: string;
  /** 16 bytes. */
  readonly migrationId: Buffer;
  /** Must not change meanwhile: the guest runs elsewhere. */
  readonly ram: PageSource;
  readonly missing: PageBitmap;
}

/** Writes the missing pages; durable under `path`, mode 0600, when it resolves. */
export async function writeBackup(
  options: WriteBackupOptions,
): Promise<{ pages: number; bytes: number }> {
  const { missing, migrationId } = options;
  return createDurably(options.path, async (file) => {
    const body = await writeBody(file, options);
    const header = { migrationId, ramPages: missing.pages, pages: missing.count, ...body };
    await writeAll(file, encodeBackupHeader(header), 0);
    return { pages: missing.count, bytes: BACKUP_HEADER_BYTES + body.bodyBytes };
  });
}

async function writeBody(
  file: FileHandle,
  options: WriteBackupOptions,
): Promise<{ batches: number; bodyBytes: number; digest: Buffer }> {
  const { missing, signal, onProgress } = options;
  const encoder = new PageEncoder({
    ramPages: missing.pages,
    cacheBytes: 0,
    // Zero pages are in the file, too: that they are missing means that they are not there.
    destinationIsZero: false,
  });
  const hash = createHash('sha256');
  let batches = 0;
  let bodyBytes = 0;
  let pages = 0;
  for (const batch of encoder.encode(missing.ranges(), options.ram)) {
    signal?.throwIfAborted();
    const parts = encodeBatch(batch, await compressBatch(batch));
    const length = Buffer.alloc(BATCH_LENGTH_BYTES);
    length.writeUInt32BE(parts.reduce((bytes, part) => bytes + part.length, 0));
    for (const part of [length, ...parts]) {
      hash.update(part);
      await writeAll(file, part, BACKUP_HEADER_BYTES + bodyBytes);
      bodyBytes += part.length;
    }
    encoder.recycle(batch);
    batches += 1;
    pages += batch.pages;
    onProgress?.(pages, missing.count);
  }
  signal?.throwIfAborted();
  return { batches, bodyBytes, digest: hash.digest() };
}

/**
 * Opens a backup file and verifies all of it. Rejects with `BackupError` naming what is wrong; with
 * the system's error if it can't be read.
 */
export async function openBackup(path: string, progress: StoreProgress = {}): Promise<BackupFile> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const head = Buffer.alloc(BACKUP_HEADER_BYTES);
    const length = await readFull(file, head, 0);
    const header = decodeBackupHeader(head.subarray(0, length), size);
    return new BackupFile(file, header, await verifyBody(file, header, progress));
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A verified backup file. */
export class BackupFile {
  readonly migrationId: Buffer;
  readonly ramPages: number;
  /** The pages that it has. */
  readonly pages: PageBitmap;
  readonly #file: FileHandle;
  readonly #header: BackupHeader;

  constructor(file: FileHandle, header: BackupHeader, pages: PageBitmap) {
    this.#file = file;
    this.#header = header;
    this.migrationId = header.migrationId;
    this.ramPages = header.ramPages;
    this.pages = pages;
  }

  /**
   * Writes its pages into the RAM, with `only` those of them that are in it, and returns how many.
   * Rejects with `BackupError` if the file has changed since it was opened.
   */
  async apply(
    target: PageTarget,
    options: StoreProgress & { readonly only?: PageBitmap } = {},
  ): Promise<number> {
    const decoder = new PageDecoder(this.ramPages, target);
    let written = 0;
    let done = 0;
    for await (const bytes of readBatches(this.#file, this.#header)) {
      options.signal?.throwIfAborted();
      const batch = inBackup(() => decodeBatch(bytes, this.ramPages));
      this.#checkKnown(batch);
      const applied = decoder.applyDecoded(batch, options.only);
      written += applied.written;
      done += applied.pages;
      options.onProgress?.(done, this.#header.pages);
    }
    return written;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  #checkKnown(batch: PageBatch): void {
    for (const { first, count, kind } of batch.runs) {
      if (kind === 'delta' || this.pages.countIn(first, count) !== count) {
        throw new BackupError('The file has changed since it was verified');
      }
    }
  }
}

async function verifyBody(
  file: FileHandle,
  header: BackupHeader,
  { signal, onProgress }: StoreProgress,
): Promise<PageBitmap> {
  const pages = new PageBitmap(header.ramPages);
  const hash = createHash('sha256');
  let batches = 0;
  for await (const bytes of readBatches(file, header, (part) => hash.update(part))) {
    signal?.throwIfAborted();
    const batch = inBackup(() => decodeBatch(bytes, header.ramPages), batches);
    for (const { first, count, kind } of batch.runs) {
      if (kind === 'delta') throw new BackupError(`Batch ${batches} has deltas`);
      if (pages.countIn(first, count) > 0) {
        throw new BackupError(`Batch ${batches} has pages ${first}+${count} once more`);
      }
      pages.set(first, count);
    }
    batches += 1;
    onProgress?.(pages.count, header.pages);
  }
  if (!hash.digest().equals(header.digest))
    throw new BackupError('The digest of the body is wrong');
  if (batches !== header.batches || pages.count !== header.pages) {
    throw new BackupError(
      `The body has ${batches} batches and ${pages.count} pages instead of ${header.batches} ` +
        `and ${header.pages}`,
    );
  }
  return pages;
}

/** The batches' bytes; each is valid until the next is asked for. */
async function* readBatches(
  file: FileHandle,
  header: BackupHeader,
  onBytes?: (bytes: Buffer) => void,
): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(BATCH_LENGTH_BYTES + BATCH_BYTES_MAX);
  for (let at = 0; at < header.bodyBytes; ) {
    const prefix = buffer.subarray(0, BATCH_LENGTH_BYTES);
    await readExactly(file, prefix, BACKUP_HEADER_BYTES + at);
    const length = prefix.readUInt32BE(0);
    const end = at + BATCH_LENGTH_BYTES + length;
    if (length > BATCH_BYTES_MAX || end > header.bodyBytes) {
      throw new BackupError(`A batch at ${BACKUP_HEADER_BYTES + at} claims ${length} bytes`);
    }
    const batch = buffer.subarray(BATCH_LENGTH_BYTES, BATCH_LENGTH_BYTES + length);
    await readExactly(file, batch, BACKUP_HEADER_BYTES + at + BATCH_LENGTH_BYTES);
    onBytes?.(buffer.subarray(0, BATCH_LENGTH_BYTES + length));
    yield batch;
    at = end;
  }
}

async function readExactly(file: FileHandle, target: Buffer, position: number): Promise<void> {
  if ((await readFull(file, target, position)) !== target.length) {
    throw new BackupError(`The file ends at ${position} although it was longer`);
  }
}

/** What is wrong with a batch is wrong with the file. */
function inBackup<T>(decode: () => T, batch?: number): T {
  try {
    return decode();
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    const which = batch === undefined ? 'A batch' : `Batch ${batch}`;
    throw new BackupError(`${which} of the backup file is broken`, { cause: error });
  }
}
