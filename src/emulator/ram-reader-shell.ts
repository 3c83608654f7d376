import { readSync } from 'node:fs';
import { assert } from '../lib/index.js';
import type { RamHandle } from './emulator.js';
import { QemuError } from './errors.js';

/** Reads guest RAM in another thread than the emulator's. The descriptor stays the emulator's. */
export class RamReader {
  readonly #handle: RamHandle;

  constructor(handle: RamHandle) {
    this.#handle = handle;
  }

  get sizeBytes(): number {
    return this.#handle.sizeBytes;
  }

  /** Fills `target` with what the guest sees from `offset` on. QemuError when QEMU is gone. */
  copyOut(offset: number, target: Buffer): void {
    const { fd, at, sizeBytes } = this.#handle;
    assert(
      offset >= 0 && offset + target.length <= sizeBytes,
      `Range ${offset}+${target.length} exceeds guest RAM of ${sizeBytes} bytes`,
    );
    for (let done = 0; done < target.length; ) {
      const count = readSync(fd, target, done, target.length - done, at + offset + done);
      if (count === 0) throw new QemuError('QEMU has ended, its RAM is gone');
      done += count;
    }
  }
}
