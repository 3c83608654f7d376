/**
 * The overlay's bytes at positions from 0: in memory up to a bound, beyond it in a spill file.
 * Memory comes in slabs, allocated when first written. Positions never written are never read.
 */
import { DiskError } from './errors.js';
import { type SecondaryBounds, SLAB_BYTES } from './limits.js';
import { SpillFile } from './spill-file-shell.js';

export class OverlayStore {
  readonly #memoryBytesMax: number;
  readonly #bytesMax: number;
  readonly #slabs: Buffer[] = [];
  readonly #spill: SpillFile;
  #end = 0;

  constructor(bounds: SecondaryBounds, spillDirectory: string) {
    this.#memoryBytesMax = Math.floor(bounds.overlayMemoryBytes / SLAB_BYTES) * SLAB_BYTES;
    this.#bytesMax = this.#memoryBytesMax + bounds.overlaySpillBytes;
    this.#spill = new SpillFile(spillDirectory);
  }

  /** The part of the file that has been used since the last `clear`, bytes. */
  get spilledBytes(): number {
    return Math.max(0, this.#end - this.#memoryBytesMax);
  }

  /** Throws DiskError ENOSPC at the bound or when the disk of the spill file is full. */
  async write(position: number, data: Buffer): Promise<void> {
    const end = position + data.length;
    if (end > this.#bytesMax) {
      throw new DiskError(`The overlay has reached its bound of ${this.#bytesMax} bytes`, 'ENOSPC');
    }
    let done = 0;
    while (done < data.length && position + done < this.#memoryBytesMax) {
      const at = position + done;
      const within = at % SLAB_BYTES;
      done += data.copy(this.#slab(Math.floor(at / SLAB_BYTES)), within, done);
    }
    this.#end = Math.max(this.#end, end);
    if (done === data.length) return;
    await this.#spill.write(position + done - this.#memoryBytesMax, data.subarray(done));
  }

  /** Fills `target`. */
  async read(position: number, target: Buffer): Promise<void> {
    let done = 0;
    while (done < target.length && position + done < this.#memoryBytesMax) {
      const at = position + done;
      const within = at % SLAB_BYTES;
      done += this.#slab(Math.floor(at / SLAB_BYTES)).copy(target, done, within);
    }
    if (done === target.length) return;
    await this.#spill.read(position + done - this.#memoryBytesMax, target.subarray(done));
  }

  /** Forgets everything. Slabs stay for the next epoch; the file's space is given back. */
  async clear(): Promise<void> {
    const spilled = this.spilledBytes;
    this.#end = 0;
    await this.#spill.discard(0, spilled);
  }

  async close(): Promise<void> {
    this.#slabs.length = 0;
    await this.#spill.close();
  }

  #slab(index: number): Buffer {
    while (this.#slabs.length <= index) this.#slabs.push(Buffer.allocUnsafeSlow(SLAB_BYTES));
    return this.#slabs[index] as Buffer;
  }
}
