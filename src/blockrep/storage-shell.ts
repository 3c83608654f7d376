/**
 * What images and the journal need of a file, so that a model disk which loses power can stand in
 * for both in tests. `ImageFile` is one; `FileDirectory` opens the journal's.
 */
import fs from 'node:fs/promises';
import path from 'node:path';
import { describeError, OperatorError } from '../lib/index.js';
import { lockFile, punchHole, syncDirectory, zeroRange } from '../linux/index.js';
import type { BlockLayer, ByteRange, RangeQuery, ZeroOptions } from './block-layer-shell.js';
import { DiskError, errnoOf } from './errors.js';
import { ZERO_CHUNK_BYTES } from './limits.js';

/** A file as a disk. Failures are DiskErrors; writes are durable after `flush` only. */
export interface StorageFile {
  /** For messages. */
  readonly path: string;
  /** When it was opened; a journal may have grown since. */
  readonly sizeBytes: number;
  /** All of `length`, or an error. */
  read(offset: number, length: number): Promise<Buffer>;
  /** Buffers that follow each other in the file, with one call. */
  writeMany(offset: number, parts: readonly Buffer[]): Promise<void>;
  /** Without `mayTrim` the space is kept, and allocated where it was not. */
  writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void>;
  /** fdatasync: everything answered before the call is durable when it resolves. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** A raw image as the secondary's disk uses it. */
export interface StorageImage extends BlockLayer, StorageFile {
  /** Both hosts have this very image. */
  readonly isShared?: boolean;
  dataRanges(query?: RangeQuery): ByteRange[];
}

/** Where the journal's files are. */
export interface StorageDirectory {
  /** Undefined when there is no such file. */
  open(name: string): Promise<StorageFile | undefined>;
  /** Makes it, or makes it anew: zeroes, its space allocated, its name durable. */
  create(name: string, sizeBytes: number): Promise<StorageFile>;
  /** No error when there is none. */
  remove(name: string): Promise<void>;
}

export class FileDirectory implements StorageDirectory {
  readonly #path: string;

  constructor(directory: string) {
    this.#path = directory;
  }

  async open(name: string): Promise<StorageFile | undefined> {
    const file = path.join(this.#path, name);
    try {
      return await JournalFile.open(file, 'r+');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  async create(name: string, sizeBytes: number): Promise<StorageFile> {
    const file = await JournalFile.open(path.join(this.#path, name), 'w+');
    try {
      await file.allocate(sizeBytes);
      await syncDirectory(this.#path);
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  remove(name: string): Promise<void> {
    return fs.rm(path.join(this.#path, name), { force: true });
  }
}

/** A regular file, mode 0600, locked: two agents of one host never write to one journal. */
class JournalFile implements StorageFile {
  readonly path: string;
  readonly #handle: fs.FileHandle;
  #sizeBytes = 0;

  private constructor(file: string, handle: fs.FileHandle) {
    this.path = file;
    this.#handle = handle;
  }

  static async open(file: string, flags: 'r+' | 'w+'): Promise<JournalFile> {
    let handle: fs.FileHandle;
    try {
      // Emptied only once it is locked.
      handle = await fs.open(file, flags === 'r+' ? flags : 'a+', 0o600);
      if (flags === 'w+') {
        await handle.close();
        handle = await fs.open(file, 'r+');
      }
    } catch (cause) {
      if (flags === 'r+' && errnoOf(cause) === 'ENOENT') throw cause;
      const message = `Cannot open the journal ${file}: ${describeError(cause)}`;
      throw new OperatorError('COLO_E_JOURNAL_OPEN', message, { cause });
    }
    const opened = new JournalFile(file, handle);
    try {
      if (!lockFile(handle.fd, 'exclusive')) {
        const message = `The journal ${file} is in use by another process; stop that one first`;
        throw new OperatorError('COLO_E_JOURNAL_LOCKED', message);
      }
      if (flags === 'w+') await handle.truncate(0);
      opened.#sizeBytes = (await handle.stat()).size;
      return opened;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** So that a sync need not wait for the file system's own journal, and ENOSPC comes early. */
  async allocate(sizeBytes: number): Promise<void> {
    await this.#attempt('create', async () => {
      await this.#handle.truncate(sizeBytes);
      await zeroRange(this.#handle.fd, 0, sizeBytes);
      await this.#handle.sync();
    });
    this.#sizeBytes = sizeBytes;
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#attempt('read', async () => {
      const data = Buffer.allocUnsafeSlow(length);
      await readWhole(this.#handle, offset, data);
      return data;
    });
  }

  writeMany(offset: number, parts: readonly Buffer[]): Promise<void> {
    return this.#attempt('write', async () => {
      let length = 0;
      for (const part of parts) length += part.length;
      let done = (await this.#handle.writev(parts, offset)).bytesWritten;
      if (done === length) return;
      const whole = Buffer.concat(parts);
      while (done < length) {
        done += (await this.#handle.write(whole, done, length - done, offset + done)).bytesWritten;
      }
    });
  }

  async writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void> {
    const change = options.mayTrim ? punchHole : zeroRange;
    if (length > 0 && !(await change(this.#handle.fd, offset, length))) {
      const zeroes = Buffer.alloc(Math.min(length, ZERO_CHUNK_BYTES));
      for (let done = 0; done < length; done += zeroes.length) {
        const part = zeroes.subarray(0, Math.min(zeroes.length, length - done));
        await this.writeMany(offset + done, [part]);
      }
    }
    if (options.fua) await this.flush();
  }

  flush(): Promise<void> {
    return this.#attempt('flush', () => this.#handle.datasync());
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  async #attempt<T>(action: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (cause) {
      const message = `Cannot ${action} the journal ${this.path}`;
      throw new DiskError(message, errnoOf(cause), { cause });
    }
  }
}

/** Fills `data`. Throws `Error` at the end of the file, and what the system says. */
export async function readWhole(file: fs.FileHandle, offset: number, data: Buffer): Promise<void> {
  for (let done = 0; done < data.length; ) {
    const { bytesRead } = await file.read(data, done, data.length - done, offset + done);
    if (bytesRead === 0) throw new Error('Unexpected end of file');
    done += bytesRead;
  }
}
