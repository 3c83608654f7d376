/**
 * The last layer: a raw image, a regular file or a block device.
 *
 * Whoever opens it for writing holds an exclusive flock on it until `close`, so two agents of one
 * host never write to one image. Writes go through the page cache; `flush` is fdatasync, and
 * flushes asked for while one runs share the next.
 */
import fs from 'node:fs';
import { describeError, OperatorError } from '../lib/index.js';
import {
  lockExclusive,
  punchHole,
  seekData,
  seekHole,
  seekSize,
  zeroRange,
} from '../linux/index.js';
import type { ByteRange, ZeroOptions } from './block-layer-shell.js';
import { DiskError, errnoOf } from './errors.js';
import { SECTOR_BYTES, ZERO_CHUNK_BYTES } from './limits.js';
import type { StorageImage } from './storage-shell.js';

export interface ImageOptions {
  readonly path: string;
  readonly readOnly?: boolean;
  /** Creates a missing image, sparse, with this size; an existing one must have it. */
  readonly sizeBytes?: number;
}

const ZEROES = Buffer.alloc(ZERO_CHUNK_BYTES);

export class ImageFile implements StorageImage {
  readonly path: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #fd: number;
  #flushing: Promise<void> | undefined;
  #nextFlush: Promise<void> | undefined;
  #closed = false;

  private constructor(fd: number, sizeBytes: number, options: ImageOptions) {
    this.#fd = fd;
    this.path = options.path;
    this.sizeBytes = sizeBytes;
    this.readOnly = options.readOnly === true;
  }

  /** Throws OperatorError when the image can not be used, saying why and what to change. */
  static async open(options: ImageOptions): Promise<ImageFile> {
    const fd = await openImage(options);
    try {
      const sizeBytes = prepareImage(fd, options);
      return new ImageFile(fd, sizeBytes, options);
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  read(offset: number, length: number): Promise<Buffer> {
    const data = Buffer.allocUnsafeSlow(length);
    return new Promise((resolve, reject) => {
      const step = (done: number) => {
        fs.read(this.#fd, data, done, length - done, offset + done, (error, count) => {
          if (error !== null) reject(this.#failed('read', error));
          else if (count === 0) reject(this.#failed('read', new Error('Unexpected end of file')));
          else if (done + count < length) step(done + count);
          else resolve(data);
        });
      };
      if (length === 0) resolve(data);
      else step(0);
    });
  }

  async write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    await this.#write(offset, data, data.length);
    if (fua) await this.flush();
  }

  /** Writes buffers that follow each other on the disk with one call. */
  async writeMany(offset: number, parts: readonly Buffer[]): Promise<void> {
    const [first, second] = parts;
    if (first === undefined) return;
    if (second === undefined) {
      await this.#write(offset, first, first.length);
      return;
    }
    let length = 0;
    for (const part of parts) length += part.length;
    const written = await new Promise<number>((resolve, reject) => {
      fs.writev(this.#fd, parts, offset, (error, count) => {
        if (error !== null) reject(this.#failed('write', error));
        else resolve(count);
      });
    });
    if (written === length) return;
    const rest = Buffer.concat(parts).subarray(written);
    await this.#write(offset + written, rest, rest.length);
  }

  async writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void> {
    const change = options.mayTrim ? punchHole : zeroRange;
    if (length > 0 && !(await change(this.#fd, offset, length))) {
      for (let done = 0; done < length; done += ZEROES.length) {
        await this.#write(offset + done, ZEROES, Math.min(ZEROES.length, length - done));
      }
    }
    if (options.fua) await this.flush();
  }

  trim(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length, { mayTrim: true, fua: false });
  }

  flush(): Promise<void> {
    if (this.#flushing === undefined) {
      this.#flushing = this.#sync().finally(() => {
        this.#flushing = undefined;
      });
      return this.#flushing;
    }
    // The running fdatasync may have missed writes answered since; all who come now share the next.
    this.#nextFlush ??= this.#flushing
      .catch(() => undefined)
      .then(() => {
        this.#nextFlush = undefined;
        return this.flush();
      });
    return this.#nextFlush;
  }

  dataRanges(): ByteRange[] {
    const ranges: ByteRange[] = [];
    let at = 0;
    while (at < this.sizeBytes) {
      const start = seekData(this.#fd, at);
      if (start === undefined || start >= this.sizeBytes) break;
      const end = Math.min(seekHole(this.#fd, start), this.sizeBytes);
      ranges.push({ offset: start, length: end - start });
      at = end;
    }
    return ranges;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await new Promise<void>((resolve, reject) => {
      fs.close(this.#fd, (error) => (error ? reject(this.#failed('close', error)) : resolve()));
    });
  }

  #sync(): Promise<void> {
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.#fd, (error) => (error ? reject(this.#failed('flush', error)) : resolve()));
    });
  }

  #write(offset: number, data: Buffer, length: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const step = (done: number) => {
        fs.write(this.#fd, data, done, length - done, offset + done, (error, count) => {
          if (error !== null) reject(this.#failed('write', error));
          else if (done + count < length) step(done + count);
          else resolve();
        });
      };
      if (length === 0) resolve();
      else step(0);
    });
  }

  #failed(action: string, cause: Error): DiskError {
    const message = `Cannot ${action} the image ${this.path}`;
    return new DiskError(message, errnoOf(cause), { cause });
  }
}

async function openImage(options: ImageOptions): Promise<number> {
  const { path } = options;
  const mode = options.readOnly === true ? 'r' : 'r+';
  try {
    return await openFile(path, mode);
  } catch (error) {
    const missing = errnoOf(error) === 'ENOENT';
    if (!missing || options.sizeBytes === undefined || options.readOnly === true) {
      const advice = missing
        ? 'create it or correct the path'
        : 'check the path and its permissions';
      const message = `Cannot open the image ${path}: ${describeError(error)}; ${advice}`;
      throw new OperatorError('COLO_E_IMAGE_OPEN', message, { cause: error });
    }
  }
  try {
    return await openFile(path, 'wx+');
  } catch (error) {
    const message = `Cannot create the image ${path}: ${describeError(error)}`;
    throw new OperatorError('COLO_E_IMAGE_OPEN', message, { cause: error });
  }
}

function openFile(path: string, mode: string): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.open(path, mode, 0o600, (error, fd) => (error ? reject(error) : resolve(fd)));
  });
}

/** Checks kind, lock and size, and gives a new image its size. Returns the size. */
function prepareImage(fd: number, options: ImageOptions): number {
  const { path } = options;
  const stat = fs.fstatSync(fd);
  if (!stat.isFile() && !stat.isBlockDevice()) {
    const message = `The image ${path} is neither a regular file nor a block device`;
    throw new OperatorError('COLO_E_IMAGE_KIND', message);
  }
  if (options.readOnly !== true && !lockExclusive(fd)) {
    const message = `The image ${path} is in use by another process; stop that one first`;
    throw new OperatorError('COLO_E_IMAGE_LOCKED', message);
  }
  const wanted = options.sizeBytes;
  let found = seekSize(fd);
  // Only an empty file is given a size: a wrong size is somebody else's data.
  if (found === 0 && wanted !== undefined && stat.isFile() && options.readOnly !== true) {
    fs.ftruncateSync(fd, wanted);
    found = wanted;
  }
  if (wanted !== undefined && found !== wanted) {
    const message = `The image ${path} has ${found} bytes where ${wanted} are expected`;
    throw new OperatorError('COLO_E_IMAGE_SIZE', message);
  }
  if (found === 0 || found % SECTOR_BYTES !== 0) {
    const message = `The image ${path} has ${found} bytes, not a positive multiple of ${SECTOR_BYTES}; it must be a raw image`;
    throw new OperatorError('COLO_E_IMAGE_SIZE', message);
  }
  return found;
}
