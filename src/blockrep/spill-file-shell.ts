/**
 * A temporary file for what does not fit into memory. It has no name: it is unlinked as soon as it
 * is open, so nothing is left behind however the process ends. Opened at the first write.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import { punchHole } from '../linux/index.js';
import { DiskError, errnoOf } from './errors.js';

export class SpillFile {
  readonly #directory: string;
  #file: Promise<fs.FileHandle> | undefined;
  #pending = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** True while something is being written. */
  get busy(): boolean {
    return this.#pending > 0;
  }

  /** All of `data`, or a DiskError (a full disk: ENOSPC). */
  async write(position: number, data: Buffer): Promise<void> {
    this.#pending += 1;
    try {
      const file = await this.#open();
      for (let done = 0; done < data.length; ) {
        const rest = data.length - done;
        done += (await file.write(data, done, rest, position + done)).bytesWritten;
      }
    } catch (error) {
      throw this.#failed('write', error);
    } finally {
      this.#pending -= 1;
    }
  }

  /** Fills `target`. */
  async read(position: number, target: Buffer): Promise<void> {
    try {
      const file = await this.#open();
      for (let done = 0; done < target.length; ) {
        const rest = target.length - done;
        const { bytesRead } = await file.read(target, done, rest, position + done);
        if (bytesRead === 0) throw new DiskError('The spill file ends early', 'EIO');
        done += bytesRead;
      }
    } catch (error) {
      throw this.#failed('read', error);
    }
  }

  /** Gives the range's space back where the file system can; else it stays until `close`. */
  async discard(from: number, to: number): Promise<void> {
    if (this.#file === undefined || to <= from) return;
    await punchHole((await this.#file).fd, from, to - from);
  }

  async close(): Promise<void> {
    const file = await this.#file?.catch(() => undefined);
    this.#file = undefined;
    await file?.close();
  }

  #open(): Promise<fs.FileHandle> {
    this.#file ??= this.#create();
    return this.#file;
  }

  async #create(): Promise<fs.FileHandle> {
    const name = path.join(this.#directory, `colo-spill-${randomUUID()}`);
    const file = await fs.open(name, 'wx+', 0o600);
    await fs.unlink(name);
    return file;
  }

  #failed(action: string, cause: unknown): DiskError {
    const message = `Cannot ${action} the spill file in ${this.#directory}`;
    return new DiskError(message, errnoOf(cause), { cause });
  }
}
