/** Reads the memory of a child through /proc/<pid>/mem (proc(5)): what the process itself sees. */
import { closeSync, openSync, readSync } from 'node:fs';
import { assert } from '../lib/index.js';

export class ProcessMemory {
  readonly #fd: number;
  #closed = false;

  constructor(pid: number) {
    this.#fd = openSync(`/proc/${pid}/mem`, 'r');
  }

  /** Its number, for another thread, which reads it at the process's addresses. */
  get fd(): number {
    return this.#fd;
  }

  /**
   * Fills `target` from `address` on. False once the process is gone: it has no memory any more.
   */
  copyOut(address: number, target: Buffer): boolean {
    // The number may be another file's by now.
    assert(!this.#closed, 'The memory of a process was read after its close');
    let at = 0;
    while (at < target.length) {
      const count = readSync(this.#fd, target, at, target.length - at, address + at);
      if (count === 0) return false;
      at += count;
    }
    return true;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }
}
