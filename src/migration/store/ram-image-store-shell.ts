/**
 * The RAM images that a host keeps of guests that left it: one file per guest in a folder of the
 * state directory, bounded in bytes and age. An image is worth having, never worth a failure: what
 * does not fit is not kept, and what is broken is not used.
 */
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../../lib/index.js';
import { syncDirectory } from '../../linux/index.js';
import { createDurably, PARTIAL_SUFFIX } from './new-file-shell.js';
import { NO_ROOM, RamImage, type SaveImageOptions, writeImage } from './ram-image-shell.js';

const SUFFIX = '.ram';
/** What `st_blocks` counts, stat(2). */
const BLOCK_BYTES = 512;
const VM_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/;

export interface RamImageStoreOptions {
  /** Made with mode 0700 if it is missing. */
  readonly directory: string;
  /** Bytes that all images may take on the disk; 0 keeps none. */
  readonly bytesMax: number;
  /** Milliseconds after which an image is not worth its room any more. */
  readonly ageMaxMs: number;
  /** Milliseconds since 1970; for tests. */
  readonly nowMs?: () => number;
}

export type SavedImage =
  | { readonly kept: true; readonly bytes: number }
  | { readonly kept: false; readonly reason: string };

interface StoredFile {
  readonly path: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/** For one process at a time. */
export class RamImageStore {
  readonly #options: RamImageStoreOptions;
  readonly #nowMs: () => number;

  constructor(options: RamImageStoreOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? Date.now;
  }

  /**
   * Keeps the RAM of a guest that has left, in place of an older image of it; other guests' images
   * make room, the oldest first. Rejects with what the system says, or the signal's reason; then,
   * as when it is not kept, there is no image of this guest.
   */
  async save(options: SaveImageOptions): Promise<SavedImage> {
    const { directory, bytesMax } = this.#options;
    const path = this.#pathOf(options.vm);
    await this.discard(options.vm);
    if (bytesMax === 0) return { kept: false, reason: 'RAM images are switched off' };
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await this.sweep();
    const others = await this.#stored();
    const roomFor = async (bytes: number): Promise<boolean> => {
      while (bytes + total(others) > bytesMax) {
        const oldest = others.shift();
        if (oldest === undefined) return false;
        await rm(oldest.path, { force: true });
      }
      return true;
    };
    try {
      const bytes = await createDurably(path, async (file) => {
        const written = await writeImage(file, options, this.#nowMs(), roomFor);
        if (written === NO_ROOM) throw new NoRoom();
        return written;
      });
      return { kept: true, bytes };
    } catch (error) {
      if (!(error instanceof NoRoom)) throw error;
      return { kept: false, reason: `It needs more than the ${bytesMax} bytes that are allowed` };
    }
  }

  /**
   * The guest's image, if there is one that is not too old. Rejects with `RamImageError` if it is
   * broken, of another guest or of another size of RAM; `discard` is then what is left to do.
   */
  async open(vm: string, ramPages: number): Promise<RamImage | undefined> {
    let image: RamImage;
    try {
      image = await RamImage.open(this.#pathOf(vm), vm, ramPages);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
    if (this.#nowMs() - image.header.savedAtMs <= this.#options.ageMaxMs) return image;
    await image.close();
    await this.discard(vm);
    return undefined;
  }

  /** Removes the guest's image, if there is one, for good. */
  async discard(vm: string): Promise<void> {
    const path = this.#pathOf(vm);
    try {
      await stat(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw error;
    }
    await rm(path, { force: true });
    await syncDirectory(this.#options.directory);
  }

  /** Removes what is too old, what no writing has finished, and the oldest beyond the bound. */
  async sweep(): Promise<void> {
    const { bytesMax, ageMaxMs, directory } = this.#options;
    for (const name of await namesIn(directory)) {
      if (name.endsWith(SUFFIX + PARTIAL_SUFFIX)) await rm(join(directory, name), { force: true });
    }
    const stored = await this.#stored();
    while (stored.length > 0) {
      const oldest = stored[0] as StoredFile;
      const expired = this.#nowMs() - oldest.modifiedMs > ageMaxMs;
      if (!expired && total(stored) <= bytesMax) return;
      await rm(oldest.path, { force: true });
      stored.shift();
    }
  }

  /** The oldest first. */
  async #stored(): Promise<StoredFile[]> {
    const found: StoredFile[] = [];
    for (const name of await namesIn(this.#options.directory)) {
      if (!name.endsWith(SUFFIX)) continue;
      const path = join(this.#options.directory, name);
      const { blocks, mtimeMs } = await stat(path);
      found.push({ path, bytes: blocks * BLOCK_BYTES, modifiedMs: mtimeMs });
    }
    return found.sort((a, b) => a.modifiedMs - b.modifiedMs);
  }

  #pathOf(vm: string): string {
    assert(VM_NAME.test(vm), `A guest can't be called ${JSON.stringify(vm)}`);
    return join(this.#options.directory, vm + SUFFIX);
  }
}

class NoRoom extends Error {}

function total(files: readonly StoredFile[]): number {
  return files.reduce((bytes, file) => bytes + file.bytes, 0);
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
