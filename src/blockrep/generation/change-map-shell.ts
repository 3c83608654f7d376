/** The file under a change map: made, mapped, and closed so that a boot may follow. */
import { type FileHandle, open } from 'node:fs/promises';
import { MemoryMap } from '../../linux/index.js';
import { COPY_CHUNK_BYTES } from '../limits.js';
import { ChangeMap, changeMapBytes } from './change-map.js';

export class ChangeMapFile {
  readonly map: ChangeMap;
  readonly #file: FileHandle;
  readonly #memory: MemoryMap;
  #closed = false;

  private constructor(map: ChangeMap, file: FileHandle, memory: MemoryMap) {
    this.map = map;
    this.#file = file;
    this.#memory = memory;
  }

  /** Opens the file or makes it. A file of another size is another disk's, and made anew. */
  static async open(
    path: string,
    options: { sizeBytes: number; bootId: string },
  ): Promise<ChangeMapFile> {
    const file = await openOrCreate(path);
    try {
      const sizeBytes = changeMapBytes(options.sizeBytes);
      if ((await file.stat()).size !== sizeBytes) await fillWithZeroes(file, sizeBytes);
      const memory = MemoryMap.ofFile(file.fd, sizeBytes);
      const bytes = memory.view(0, sizeBytes) as Buffer;
      const { buffer, byteOffset } = bytes;
      const map = new ChangeMap(
        {
          header: new BigUint64Array(buffer, byteOffset, 512),
          words: new Uint32Array(buffer, byteOffset, sizeBytes / 4),
        },
        options,
      );
      // From here on a loss of power leaves a map that is neither of its boot nor clean.
      await file.sync();
      return new ChangeMapFile(map, file, memory);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Durable and clean; the image must be durable before. Nothing may be marked any more. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.#file.sync();
      this.map.markClean();
      await this.#file.sync();
    } finally {
      this.#memory.close();
      await this.#file.close();
    }
  }
}

async function openOrCreate(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r+');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return open(path, 'wx+', 0o600);
  }
}

/** Written, not only sized: a store to a hole on a full file system would end the process. */
async function fillWithZeroes(file: FileHandle, sizeBytes: number): Promise<void> {
  await file.truncate(0);
  const zeroes = Buffer.alloc(Math.min(sizeBytes, COPY_CHUNK_BYTES));
  for (let at = 0; at < sizeBytes; ) {
    const length = Math.min(zeroes.length, sizeBytes - at);
    const { bytesWritten } = await file.write(zeroes, 0, length, at);
    at += bytesWritten;
  }
}
