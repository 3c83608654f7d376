import { closeSync } from 'node:fs';
import { createMemoryFile, discardPages, MemoryMap } from '../linux/index.js';

/**
 * Where the secondary collects the PVM's pages of a checkpoint until it is committed: as large as
 * guest RAM, using memory only for what was written since the last `discard`.
 */
export class StagingArea {
  readonly sizeBytes: number;
  readonly #fd: number;
  readonly #map: MemoryMap;
  #closed = false;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#fd = createMemoryFile('colo-staging', sizeBytes);
    this.#map = MemoryMap.ofFile(this.#fd, sizeBytes);
  }

  write(offset: number, bytes: Buffer): void {
    this.#map.write(offset, bytes);
  }

  /** The staged bytes, no copy; valid until `discard`. Undefined across a multiple of 1 GiB. */
  view(offset: number, length: number): Buffer | undefined {
    return this.#map.view(offset, length);
  }

  copyOut(offset: number, target: Buffer): void {
    this.#map.copyOut(offset, target);
  }

  /** Everything reads as zeroes again and uses no memory. */
  discard(): void {
    discardPages(this.#fd, { offset: 0, length: this.sizeBytes });
  }

  /** Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#map.close();
    closeSync(this.#fd);
  }
}
