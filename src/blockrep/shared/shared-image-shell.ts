/**
 * The image of a disk that two hosts see: open, and locked, only while this host's guest may use
 * it. A host that lets go of it has made all of it durable and closed it, so that the other one,
 * which opens it after that, sees all of it also on a file system that promises no more (NFS:
 * close-to-open, nfs(5)).
 *
 * While it is the other host's it can be read here all the same, as it is at that moment: QEMU looks
 * at the first sector of a disk when it starts, to find a geometry for it.
 */
import { open, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { ColoError, OperatorError } from '../../lib/index.js';
import type { ByteRange, CachedFile, RangeQuery, ZeroOptions } from '../block-layer-shell.js';
import { DiskError, errnoOf } from '../errors.js';
import { ImageFile, type ImageOptions } from '../image-shell.js';
import { SHARED_LOCK_MS, SHARED_LOCK_RETRY_MS } from '../limits.js';
import type { LentData } from '../nbd-references.js';
import { readWhole, type StorageImage } from '../storage-shell.js';

export interface SharedImageOptions extends Pick<ImageOptions, 'path' | 'format' | 'log'> {
  /** As the other host has told it, and it must be; undefined: as it is found. */
  readonly sizeBytes?: number | undefined;
}

export class SharedImage implements StorageImage {
  readonly path: string;
  readonly sizeBytes: number;
  readonly readOnly = false;
  readonly keepsData = false;
  readonly isShared = true;
  readonly #options: SharedImageOptions;
  #image: ImageFile | undefined;
  /** When this host let go of it: when it was last written, nanoseconds. */
  #leftAtNs: bigint | undefined;

  private constructor(options: SharedImageOptions, sizeBytes: number, image?: ImageFile) {
    this.path = options.path;
    this.sizeBytes = sizeBytes;
    this.#options = options;
    this.#image = image;
  }

  /** This host's guest uses it from now on. Throws OperatorError. */
  static async open(options: SharedImageOptions): Promise<SharedImage> {
    const image = await ImageFile.open(openingOf(options));
    return new SharedImage(options, image.sizeBytes, image);
  }

  /** Another host's guest uses it still. */
  static elsewhere(options: SharedImageOptions & { readonly sizeBytes: number }): SharedImage {
    return new SharedImage(options, options.sizeBytes);
  }

  /** No other host uses it any more. Throws OperatorError; nothing is created. */
  async enter(): Promise<void> {
    if (this.#image !== undefined) return;
    const image = await ImageFile.open(openingOf(this.#options));
    if (image.sizeBytes !== this.sizeBytes) {
      await image.close();
      const sizes = `${image.sizeBytes} bytes where ${this.sizeBytes} are expected`;
      throw new OperatorError('COLO_E_IMAGE_SIZE', `The image ${this.path} has ${sizes}`);
    }
    this.#image = image;
  }

  /**
   * The guest does not go on elsewhere after all. The other host may need a moment to end what it
   * had begun.
   */
  async enterAgain(): Promise<void> {
    const tries = Math.ceil(SHARED_LOCK_MS / SHARED_LOCK_RETRY_MS);
    for (let left = tries; ; left -= 1) {
      try {
        await this.enter();
        return;
      } catch (error) {
        const isLocked = error instanceof ColoError && error.code === 'COLO_E_IMAGE_LOCKED';
        if (!isLocked || left === 0) throw error;
        await delay(SHARED_LOCK_RETRY_MS);
      }
    }
  }

  /** The guest stands still, and its writes are answered: another host may open it afterwards. */
  async leave(): Promise<void> {
    const image = this.#image;
    if (image === undefined) return;
    await image.flush();
    this.#leftAtNs = await this.#writtenAtNs();
    this.#image = undefined;
    await image.close();
  }

  /** Somebody has written to it since this host let go of it, as far as its file system tells. */
  async hasChanged(): Promise<boolean> {
    return this.#leftAtNs !== undefined && (await this.#writtenAtNs()) !== this.#leftAtNs;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const data = Buffer.allocUnsafeSlow(length);
    await this.readInto(offset, data);
    return data;
  }

  readInto(offset: number, data: Buffer): Promise<void> {
    return this.#image?.readInto(offset, data) ?? this.#peek(offset, data);
  }

  cachedFile(offset: number, length: number): CachedFile | undefined {
    const file = this.#image?.cachedFile(offset, length);
    // Opened anew when the guest comes back; the old descriptor may show what was before.
    return file && { ...file, isWhole: false };
  }

  async write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    return this.#mine().write(offset, data, fua);
  }

  writeLent(offset: number, data: LentData): boolean {
    return this.#image?.writeLent(offset, data) === true;
  }

  async writeMany(offset: number, parts: readonly Buffer[]): Promise<void> {
    return this.#mine().writeMany(offset, parts);
  }

  async writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void> {
    return this.#mine().writeZeroes(offset, length, options);
  }

  async trim(offset: number, length: number): Promise<void> {
    return this.#mine().trim(offset, length);
  }

  /** Of an image that is not open here everything is durable. */
  async flush(): Promise<void> {
    await this.#image?.flush();
  }

  dataRanges(query: RangeQuery = { offset: 0, length: this.sizeBytes }): ByteRange[] {
    return this.#image?.dataRanges(query) ?? [{ offset: query.offset, length: query.length }];
  }

  async close(): Promise<void> {
    await this.#image?.close();
  }

  /** Nothing is kept open, and nothing of it is believed later: `enter` opens it anew. */
  async #peek(offset: number, data: Buffer): Promise<void> {
    try {
      const file = await open(this.path, 'r');
      try {
        await readWhole(file, offset, data);
      } finally {
        await file.close();
      }
    } catch (cause) {
      throw new DiskError(`Cannot read the image ${this.path}`, errnoOf(cause), { cause });
    }
  }

  async #writtenAtNs(): Promise<bigint> {
    const { mtimeNs } = await stat(this.path, { bigint: true });
    return mtimeNs;
  }

  #mine(): ImageFile {
    if (this.#image !== undefined) return this.#image;
    throw new DiskError(`The image ${this.path} is another host's at this time`, 'EIO');
  }
}

function openingOf({ path, format, log }: SharedImageOptions): ImageOptions {
  return { path, format, writtenElsewhere: true, ...(log === undefined ? {} : { log }) };
}
