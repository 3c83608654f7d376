/**
 * The last layer: an image, which is a regular file or a block device (image-open-shell.ts), or a
 * qcow2 image that looks like a file (qcow2-export-shell.ts).
 *
 * Whoever opens it for writing holds an exclusive flock on it until `close`, so two agents of one
 * host never write to one image; readers share. Writes go through the page cache; `flush` is fdatasync, and
 * flushes asked for while one runs share the next.
 */
import fs from 'node:fs';
import type { Logger } from '../lib/index.js';
import {
  isCached,
  knownSize,
  punchHole,
  readCached,
  SystemCallError,
  seekData,
  seekHole,
  seekSize,
  zeroRange,
} from '../linux/index.js';
import type { ByteRange, CachedFile, RangeQuery, ZeroOptions } from './block-layer-shell.js';
import { DiskError, errnoOf } from './errors.js';
import { type ImageOptions, type OpenedImage, openImage } from './image-open-shell.js';
import { IMAGE_INLINE_BYTES_MAX, ZERO_CHUNK_BYTES } from './limits.js';
import type { LentData } from './nbd-references.js';
import type { StorageImage } from './storage-shell.js';

export type { ImageOptions };

const ZEROES = Buffer.alloc(ZERO_CHUNK_BYTES);

/** What lseek(2) says where holes are not known: EINVAL, ENOSYS, EOPNOTSUPP. */
const NO_SEEK_DATA: readonly number[] = [22, 38, 95];

let serials = 0;

/** None for the view that a storage daemon gives: it can't end while somebody has it open. */
function nextSerial({ format }: ImageOptions): number | undefined {
  if (format === 'qcow2') return undefined;
  serials = (serials + 1) >>> 0;
  return serials;
}

export class ImageFile implements StorageImage {
  readonly path: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly keepsData = false;
  readonly #fd: number;
  readonly #file: CachedFile;
  readonly #opened: OpenedImage;
  readonly #log: Logger | undefined;
  #changeTold = false;
  #flushing: Promise<void> | undefined;
  #nextFlush: Promise<void> | undefined;
  #closed = false;

  private constructor(opened: OpenedImage, options: ImageOptions) {
    this.#fd = opened.fd;
    this.#file = { fd: opened.fd, serial: nextSerial(options), isWhole: true };
    this.#opened = opened;
    this.#log = options.log;
    this.path = options.path;
    this.sizeBytes = opened.sizeBytes;
    this.readOnly = options.readOnly === true;
  }

  /** Throws OperatorError when the image can not be used, saying why and what to change. */
  static async open(options: ImageOptions): Promise<ImageFile> {
    return new ImageFile(await openImage(options), options);
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const data = Buffer.allocUnsafeSlow(length);
    await this.readInto(offset, data);
    return data;
  }

  /** What the page cache has of a small read is copied at once; the rest is another thread's. */
  readInto(offset: number, data: Buffer): Promise<void> {
    const { length } = data;
    let cached = 0;
    if (length <= IMAGE_INLINE_BYTES_MAX) {
      cached = this.#readCached(offset, data);
      if (cached === length) return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const step = (done: number) => {
        fs.read(this.#fd, data, done, length - done, offset + done, (error, count) => {
          if (error !== null) reject(this.#failed('read', error));
          else if (count === 0) reject(this.#failed('read', new Error('Unexpected end of file')));
          else if (done + count < length) step(done + count);
          else resolve();
        });
      };
      step(cached);
    });
  }

  cachedFile(offset: number, length: number): CachedFile | undefined {
    return isCached(this.#fd, offset, length) ? this.#file : undefined;
  }

  async write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    await this.#write(offset, data, data.length);
    if (fua) await this.flush();
  }

  writeLent(offset: number, data: LentData): boolean {
    return data.length <= IMAGE_INLINE_BYTES_MAX && data.writeTo(this.#fd, offset);
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

  /** By the file system's knowledge of holes; where it has none, everything. */
  dataRanges(query?: RangeQuery): ByteRange[] {
    const { offset, length, countMax } = query ?? { offset: 0, length: this.sizeBytes };
    const whole = { offset, length };
    if (this.#opened.isBlockDevice) return [whole];
    const ranges: ByteRange[] = [];
    const last = offset + length;
    try {
      for (let at = offset; at < last && ranges.length < (countMax ?? Infinity); ) {
        const start = seekData(this.#fd, at);
        if (start === undefined || start >= last) break;
        at = Math.min(seekHole(this.#fd, start), last);
        ranges.push({ offset: start, length: at - start });
      }
      return ranges;
    } catch (error) {
      if (error instanceof SystemCallError && NO_SEEK_DATA.includes(error.errno)) return [whole];
      throw error;
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await new Promise<void>((resolve, reject) => {
        fs.close(this.#fd, (error) => {
          // Of a storage daemon that has died, which was told when it did.
          if (error && errnoOf(error) !== 'ENOTCONN') reject(this.#failed('close', error));
          else resolve();
        });
      });
    } finally {
      await this.#opened.release();
    }
  }

  #sync(): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      fs.fdatasync(this.#fd, (error) => {
        try {
          if (error) throw error;
          this.#checkUnderneath();
          resolve();
        } catch (failure) {
          reject(this.#failed('flush', failure as Error));
        }
      });
    });
  }

  /**
   * A flush is also when somebody else's change of the image's size is noticed. A smaller image has
   * lost data: no flush succeeds any more. A larger one, or one without a name, is only reported.
   */
  #checkUnderneath(): void {
    const { sizeBytes, links } = this.#opened.isBlockDevice
      ? { sizeBytes: seekSize(this.#fd), links: 1 }
      : knownSize(this.#fd);
    if (sizeBytes < this.sizeBytes) {
      const sizes = `${sizeBytes} bytes now, where it had ${this.sizeBytes}`;
      throw new Error(`It has ${sizes}; an image must not be resized while it is in use`);
    }
    if (this.#changeTold || (sizeBytes === this.sizeBytes && links > 0)) return;
    this.#changeTold = true;
    const fields = { path: this.path, sizeBytes, guestSizeBytes: this.sizeBytes };
    if (links === 0) this.#log?.error('An image in use was deleted; what it holds is lost', fields);
    else this.#log?.warn('An image in use was enlarged; the guest does not see that', fields);
  }

  /** An error is told by the read that follows. */
  #readCached(offset: number, data: Buffer): number {
    try {
      return readCached(this.#fd, offset, data);
    } catch {
      return 0;
    }
  }

  /** A small write only has to reach the page cache, for which waiting is cheaper than a hop. */
  #writeInline(offset: number, data: Buffer): Promise<void> {
    try {
      for (let done = 0; done < data.length; ) {
        done += fs.writeSync(this.#fd, data, done, data.length - done, offset + done);
      }
      return Promise.resolve();
    } catch (error) {
      return Promise.reject(this.#failed('write', error as Error));
    }
  }

  #write(offset: number, data: Buffer, length: number): Promise<void> {
    if (length <= IMAGE_INLINE_BYTES_MAX) {
      return this.#writeInline(offset, data.subarray(0, length));
    }
    return new Promise((resolve, reject) => {
      const step = (done: number) => {
        fs.write(this.#fd, data, done, length - done, offset + done, (error, count) => {
          if (error !== null) reject(this.#failed('write', error));
          else if (done + count < length) step(done + count);
          else resolve();
        });
      };
      step(0);
    });
  }

  #failed(action: string, cause: Error): DiskError {
    const message = `Cannot ${action} the image ${this.path}`;
    return new DiskError(message, errnoOf(cause), { cause });
  }
}
