/** What an emulator holds besides its process; a guest's RAM may outlive it. */
import { closeSync, writeSync } from 'node:fs';
import { assert } from '../lib/index.js';
import { createMemoryFile } from '../linux/index.js';
import type { LeftRam } from './emulator.js';
import { RamFile } from './guest-ram-shell.js';
import { DEVICE_STATE_BYTES_MAX } from './limits.js';
import type { MachineDefinition } from './machine-definition.js';
import type { QemuProcess } from './qemu-process-shell.js';
import { encodeVmStateFile, VM_STATE_OFFSET } from './vmstate-qcow2.js';

/** Everything to give back when a guest ends, whether or not it ever ran. */
export class Parts {
  readonly ramFile: RamFile;
  readonly deviceStateFd: number;
  readonly vmStateFd: number;
  readonly closers: (() => void)[] = [];
  qemu: QemuProcess | undefined;
  /** The RAM file outlives the rest. */
  keepsRam = false;
  #released: Promise<void> | undefined;

  constructor({ name, memoryMib }: MachineDefinition, left: LeftRam | undefined) {
    const ramBytes = memoryMib * 2 ** 20;
    const isUsable = left instanceof RamFile && left.sizeBytes === ramBytes;
    assert(left === undefined || isUsable, `No RAM of ${ramBytes} bytes was left`);
    this.ramFile = isUsable ? left : new RamFile(`colo-ram-${name}`, ramBytes);
    this.closers.push(() => {
      if (!this.keepsRam) this.ramFile.close();
    });
    this.deviceStateFd = createMemoryFile('colo-device-state', 0);
    this.closers.push(() => closeSync(this.deviceStateFd));
    this.vmStateFd = createMemoryFile('colo-vm-state', VM_STATE_OFFSET + DEVICE_STATE_BYTES_MAX);
    this.closers.push(() => closeSync(this.vmStateFd));
    writeSync(this.vmStateFd, encodeVmStateFile(DEVICE_STATE_BYTES_MAX), 0, undefined, 0);
  }

  release(): Promise<void> {
    this.#released ??= this.#release();
    return this.#released;
  }

  async #release(): Promise<void> {
    try {
      await this.qemu?.kill();
    } finally {
      for (const close of this.closers.splice(0).reverse()) close();
    }
  }
}
