/** Reads the memory of a child through /proc/<pid>/mem (proc(5)): what the process itself sees. */
import { closeSync, openSync, readSync } from 'node:fs';
import { assert, ColoError } from '../lib/index.js';

export class ProcessMemory {
  readonly #pid: number;
  readonly #fd: number;
  #closed = false;

  constructor(pid: number) {
    this.#pid = pid;
    this.#fd = openSync(`/proc/${pid}/mem`, 'r');
  }

  /** Fills `target` from `address` on. Throws once the process is gone: its memory reads as empty. */
  copyOut(address: number, target: Buffer): void {
    // The number may be another file's by now.
    assert(!this.#closed, 'The memory of a process was read after its close');
    let at = 0;
    while (at < target.length) {
      const count = readSync(this.#fd, target, at, target.length - at, address + at);
      if (count === 0) {
        throw new ColoError('COLO_E_PROCESS_GONE', `Process ${this.#pid} has no memory any more`);
      }
      at += count;
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }
}
