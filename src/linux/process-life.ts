/** Whether a process still has its memory, asked without touching any of it. */
import { closeSync, openSync, readSync } from 'node:fs';
import { assert } from '../lib/index.js';

const ENTRY_BYTES = 8;

export class ProcessLife {
  readonly #fd: number;
  readonly #entry = Buffer.alloc(ENTRY_BYTES);
  #closed = false;

  constructor(pid: number) {
    this.#fd = openSync(`/proc/${pid}/pagemap`, 'r');
  }

  /** False once the last thread has ended, even while nobody has reaped the process. */
  get isThere(): boolean {
    // The number may be another file's by now.
    assert(!this.#closed, 'The life of a process was asked for after its close');
    // The entry of address 0, whatever it says: without memory there is none.
    return readSync(this.#fd, this.#entry, 0, ENTRY_BYTES, 0) === ENTRY_BYTES;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }
}
