/**
 * One kept RAM image: written while nothing else is urgent, read when its guest returns.
 *
 * What is read is verified against the digests, and they against the header, so that a page comes
 * out of an image as it went in or not at all.
 */
import { createHash, randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises';
import { assert, PAGE_SIZE_BYTES, type PageRange } from '../../lib/index.js';
import { monotonicUs } from '../../linux/index.js';
import { PageBitmap } from '../pages/page-bitmap.js';
import type { PageTarget } from '../pages/page-decoder.js';
import type { PageSource } from '../pages/page-encoder.js';
import type { StoreProgress } from './backup-file-shell.js';
import { isZeroDigest } from './digest-wire.js';
import { RamImageError } from './errors.js';
import { DIGEST_BYTES, SALT_BYTES, STORE_CHUNK_BYTES } from './limits.js';
import { readFull, writeAll } from './new-file-shell.js';
import { digestPages } from './page-digest-shell.js';
import {
  dataOffset,
  decodeImageHeader,
  encodeImageHeader,
  IMAGE_HEADER_BYTES,
  type ImageHeader,
  imageFileBytes,
  TABLE_AT,
} from './ram-image-format.js';

const CHUNK_PAGES = STORE_CHUNK_BYTES / PAGE_SIZE_BYTES;

/** A guest's RAM that does not change any more. */
export interface DepartedRam extends PageSource {
  readonly sizeBytes: number;
  /** All that may be other than zero, ascending; without it all of RAM is read. */
  dataRanges?(): PageRange[];
}

export interface SaveImageOptions extends StoreProgress {
  readonly vm: string;
  /** 16 bytes: names this state of the guest; both hosts learn it at the switchover. */
  readonly imageId: Buffer;
  /** 16 bytes that the guest does not know; by default drawn. */
  readonly salt?: Buffer;
  /** That ended with this state. */
  readonly epoch: number;
  readonly ram: DepartedRam;
  /** Bytes of RAM per second at most, so that the disk stays free for others. */
  readonly bytesPerSecond?: number;
}

/** Asked before each write: how many bytes the image will then take. False ends the writing. */
export type RoomFor = (bytes: number) => Promise<boolean>;

/** There is no room, and the writing has ended. */
export const NO_ROOM = Symbol('no room');

/** Writes the image into a new file; the bytes that it takes, or `NO_ROOM`. */
export async function writeImage(
  file: FileHandle,
  options: SaveImageOptions,
  savedAtMs: number,
  roomFor: RoomFor,
): Promise<number | typeof NO_ROOM> {
  const { ram, vm, imageId, epoch, signal } = options;
  const ramPages = ram.sizeBytes / PAGE_SIZE_BYTES;
  assert(Number.isInteger(ramPages), `A RAM of ${ram.sizeBytes} bytes`);
  const salt = options.salt ?? randomBytes(SALT_BYTES);
  const table = Buffer.alloc(ramPages * DIGEST_BYTES);
  const dataAt = dataOffset(ramPages);
  const present = presentPages(ram, ramPages);
  const pace = new Pace(options.bytesPerSecond);
  const buffer = Buffer.allocUnsafeSlow(STORE_CHUNK_BYTES);
  let dataPages = 0;
  let done = 0;
  await file.truncate(imageFileBytes(ramPages));
  for (const { first, count } of chunksOf(present)) {
    signal?.throwIfAborted();
    const chunk = buffer.subarray(0, count * PAGE_SIZE_BYTES);
    ram.copyOut(first * PAGE_SIZE_BYTES, chunk);
    const digests = table.subarray(first * DIGEST_BYTES, (first + count) * DIGEST_BYTES);
    digestPages(salt, chunk, digests);
    for (const run of dataRuns(digests)) {
      dataPages += run.count;
      if (!(await roomFor(dataAt + dataPages * PAGE_SIZE_BYTES))) return NO_ROOM;
      const from = run.first * PAGE_SIZE_BYTES;
      const bytes = chunk.subarray(from, from + run.count * PAGE_SIZE_BYTES);
      await writeAll(file, bytes, dataAt + first * PAGE_SIZE_BYTES + from);
    }
    done += count;
    options.onProgress?.(done, present.count);
    await pace.after(chunk.length, signal);
  }
  const bytes = dataAt + dataPages * PAGE_SIZE_BYTES;
  if (!(await roomFor(bytes))) return NO_ROOM;
  await writeAll(file, table, TABLE_AT);
  const digests = createHash('sha256').update(table).digest();
  const header = { vm, imageId, salt, ramPages, dataPages, epoch, savedAtMs, digests };
  await writeAll(file, encodeImageHeader(header), 0);
  signal?.throwIfAborted();
  return bytes;
}

/** An image whose header and digests have been verified. */
export class RamImage {
  readonly header: ImageHeader;
  /** 16 bytes per page (page-digest-shell.ts); not to be changed. */
  readonly digests: Buffer;
  readonly #file: FileHandle;

  private constructor(file: FileHandle, header: ImageHeader, digests: Buffer) {
    this.#file = file;
    this.header = header;
    this.digests = digests;
  }

  /**
   * Rejects with `RamImageError` if header or digests are broken or the image is of another guest
   * or another size of RAM, else with the system's error.
   */
  static async open(path: string, vm: string, ramPages: number): Promise<RamImage> {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      const head = Buffer.alloc(IMAGE_HEADER_BYTES);
      const header = decodeImageHeader(head.subarray(0, await readFull(file, head, 0)), size);
      if (header.vm !== vm) {
        throw new RamImageError(`The image is of ${JSON.stringify(header.vm)}, not of ${vm}`);
      }
      if (header.ramPages !== ramPages) {
        throw new RamImageError(
          `The image is of a RAM of ${header.ramPages} pages, the guest's has ${ramPages}`,
        );
      }
      const table = Buffer.alloc(dataOffset(header.ramPages) - TABLE_AT);
      await readFull(file, table, TABLE_AT);
      const digests = table.subarray(0, header.ramPages * DIGEST_BYTES);
      if (!createHash('sha256').update(digests).digest().equals(header.digests)) {
        throw new RamImageError('The table of digests is broken');
      }
      if (table.subarray(digests.length).some((byte) => byte !== 0)) {
        throw new RamImageError('The table of digests has reserved bits set');
      }
      let dataPages = 0;
      for (const run of dataRuns(digests)) dataPages += run.count;
      if (dataPages !== header.dataPages) {
        throw new RamImageError(`The table has ${dataPages} pages, the header ${header.dataPages}`);
      }
      return new RamImage(file, header, digests);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Reads one page. Rejects with `RamImageError` if it is not what was saved. */
  async readPage(page: number, target: Buffer): Promise<void> {
    assert(target.length === PAGE_SIZE_BYTES, `A page of ${target.length} bytes`);
    assert(page >= 0 && page < this.header.ramPages, `Page ${page} is outside of the image`);
    if (isZeroDigest(this.digests, page * DIGEST_BYTES)) target.fill(0);
    else await this.#read(page, target);
  }

  /**
   * Writes all pages that are not zero into a RAM that is all zeroes, and returns how many. Each is
   * verified; rejects with `RamImageError` at the first that is broken: the RAM is then worth no
   * more than one with anything else in it.
   */
  async load(target: PageTarget, { signal, onProgress }: StoreProgress = {}): Promise<number> {
    const buffer = Buffer.allocUnsafeSlow(STORE_CHUNK_BYTES);
    let done = 0;
    for (const run of dataRuns(this.digests)) {
      for (let at = 0; at < run.count; at += CHUNK_PAGES) {
        signal?.throwIfAborted();
        const count = Math.min(CHUNK_PAGES, run.count - at);
        const chunk = buffer.subarray(0, count * PAGE_SIZE_BYTES);
        await this.#read(run.first + at, chunk);
        target.writeFile((run.first + at) * PAGE_SIZE_BYTES, chunk);
        done += count;
        onProgress?.(done, this.header.dataPages);
      }
    }
    return done;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #read(first: number, target: Buffer): Promise<void> {
    const position = dataOffset(this.header.ramPages) + first * PAGE_SIZE_BYTES;
    if ((await readFull(this.#file, target, position)) !== target.length) {
      throw new RamImageError(`The image ends at page ${first} although it was longer`);
    }
    const count = target.length / PAGE_SIZE_BYTES;
    const found = Buffer.allocUnsafe(count * DIGEST_BYTES);
    digestPages(this.header.salt, target, found);
    const expected = this.digests.subarray(first * DIGEST_BYTES, (first + count) * DIGEST_BYTES);
    if (found.equals(expected)) return;
    for (let index = 0; index < count; index++) {
      const [from, to] = [index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES];
      if (found.subarray(from, to).equals(expected.subarray(from, to))) continue;
      throw new RamImageError(`Page ${first + index} of the image is broken`);
    }
  }
}

function presentPages(ram: DepartedRam, ramPages: number): PageBitmap {
  const present = new PageBitmap(ramPages);
  const ranges = ram.dataRanges?.();
  if (ranges === undefined) present.set(0, ramPages);
  else present.setRanges(ranges);
  return present;
}

function* chunksOf(pages: PageBitmap): Generator<{ first: number; count: number }> {
  for (const run of pages.runs()) {
    for (let at = 0; at < run.count; at += CHUNK_PAGES) {
      yield { first: run.first + at, count: Math.min(CHUNK_PAGES, run.count - at) };
    }
  }
}

/** Runs of pages that are not zero, by their digests. */
function* dataRuns(digests: Buffer): Generator<{ first: number; count: number }> {
  const pages = digests.length / DIGEST_BYTES;
  for (let page = 0; page < pages; ) {
    if (isZeroDigest(digests, page * DIGEST_BYTES)) {
      page += 1;
      continue;
    }
    const first = page;
    while (page < pages && !isZeroDigest(digests, page * DIGEST_BYTES)) page += 1;
    yield { first, count: page - first };
  }
}

/** Keeps to a rate, and lets the event loop turn in any case. */
class Pace {
  readonly #bytesPerSecond: number;
  readonly #startUs = monotonicUs();
  #bytes = 0;

  constructor(bytesPerSecond = Number.POSITIVE_INFINITY) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  async after(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    this.#bytes += bytes;
    const dueUs = this.#startUs + (this.#bytes / this.#bytesPerSecond) * 1e6;
    const waitMs = (dueUs - monotonicUs()) / 1000;
    const options = signal === undefined ? {} : { signal };
    if (waitMs < 1) await turn(undefined, options);
    else await delay(waitMs, undefined, options);
  }
}
