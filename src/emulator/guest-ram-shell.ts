/**
 * Guest RAM over both kinds of mapping. The RAM file is mapped here too; on a shared mapping that
 * is the guest's RAM itself, on a private one it is the RAM cache, and what the guest sees is read
 * from its process.
 */
import { closeSync, readSync } from 'node:fs';
import { assert, countBytes, intersectRanges, type PageRange, uniteRanges } from '../lib/index.js';
import {
  createSealedMemoryFile,
  dataExtents,
  discardPages,
  type Mapping,
  MemoryMap,
  PagemapReader,
  PagemapScanner,
  ProcessMemory,
  SystemCallError,
} from '../linux/index.js';
import type { GuestRam, LeftRam, RamHandle } from './emulator.js';
import { QemuError } from './errors.js';
import { FOLD_CHUNK_BYTES, FOLD_TURN_BYTES } from './limits.js';

/** The file behind guest RAM, without a name, and this process's mapping of it. */
export class RamFile implements LeftRam {
  readonly sizeBytes: number;
  readonly #fd: number;
  readonly #map: MemoryMap;
  #closed = false;

  constructor(name: string, sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#fd = createSealedMemoryFile(name, sizeBytes);
    this.#map = MemoryMap.ofFile(this.#fd, sizeBytes);
  }

  /** Both throw QemuError once the guest was killed: whoever still wants its RAM is merely late. */
  get fd(): number {
    this.#checkOpen();
    return this.#fd;
  }

  get map(): MemoryMap {
    this.#checkOpen();
    return this.#map;
  }

  dataRanges(part: PageRange = { offset: 0, length: this.sizeBytes }): PageRange[] {
    return dataExtents(this.fd, part);
  }

  /** Fills `target` from `offset` on; pages that the file has not stay so and are read as zeroes. */
  read(offset: number, target: Buffer): void {
    assert(
      offset >= 0 && offset + target.length <= this.sizeBytes,
      `Range ${offset}+${target.length} exceeds guest RAM of ${this.sizeBytes} bytes`,
    );
    for (let at = 0; at < target.length; ) {
      at += readSync(this.fd, target, at, target.length - at, offset + at);
    }
  }

  /** Gives the pages back to the system. */
  discard(ranges: readonly PageRange[]): void {
    for (const range of ranges) discardPages(this.fd, range);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#map.close();
    closeSync(this.#fd);
  }

  #checkOpen(): void {
    if (this.#closed) throw new QemuError('The guest was killed, its RAM is gone');
  }
}

export class SharedRam implements GuestRam {
  readonly sizeBytes: number;
  readonly #file: RamFile;
  /**
   * Some of its pages are still elsewhere. Touching such a page through a mapping would put zeroes
   * there, and the guest would never be asked about it; reading the file does not.
   */
  hasMissing = false;

  constructor(file: RamFile) {
    this.#file = file;
    this.sizeBytes = file.sizeBytes;
  }

  get handle(): RamHandle {
    return { fd: this.#file.fd, at: 0, sizeBytes: this.sizeBytes };
  }

  copyOut(offset: number, target: Buffer): void {
    if (this.hasMissing) this.#file.read(offset, target);
    else this.#file.map.copyOut(offset, target);
  }

  writeFile(offset: number, bytes: Buffer): void {
    assert(!this.hasMissing, 'The RAM file was written while pages were missing');
    this.#file.map.write(offset, bytes);
  }

  readFile(offset: number, target: Buffer): void {
    this.#file.read(offset, target);
  }

  view(offset: number, length: number): Buffer | undefined {
    return this.hasMissing ? undefined : this.#file.map.view(offset, length);
  }

  dataRanges(): PageRange[] {
    return this.#file.dataRanges();
  }
}

/** Also knows which pages the guest has copies of. */
export class PrivateRam implements GuestRam {
  readonly sizeBytes: number;
  readonly #file: RamFile;
  readonly #mapping: Mapping;
  readonly #memory: ProcessMemory;
  readonly #scanner: PagemapScanner | PagemapReader;
  #closed = false;

  constructor(file: RamFile, mapping: Mapping) {
    this.#file = file;
    this.#mapping = mapping;
    this.sizeBytes = file.sizeBytes;
    this.#memory = new ProcessMemory(mapping.pid);
    this.#scanner = openPrivateScanner(mapping);
  }

  get handle(): RamHandle {
    if (this.#closed) throw new QemuError('The guest was killed, its RAM is gone');
    return { fd: this.#memory.fd, at: this.#mapping.address, sizeBytes: this.sizeBytes };
  }

  copyOut(offset: number, target: Buffer): void {
    assert(
      offset >= 0 && offset + target.length <= this.sizeBytes,
      `Range ${offset}+${target.length} exceeds guest RAM of ${this.sizeBytes} bytes`,
    );
    if (this.#closed || !this.#memory.copyOut(this.#mapping.address + offset, target)) {
      throw new QemuError('QEMU has ended, its RAM is gone');
    }
  }

  writeFile(offset: number, bytes: Buffer): void {
    this.#file.map.write(offset, bytes);
  }

  readFile(offset: number, target: Buffer): void {
    this.#file.read(offset, target);
  }

  view(): undefined {
    return undefined;
  }

  dataRanges(): PageRange[] {
    return uniteRanges(this.#file.dataRanges(), this.privatePages());
  }

  privatePages(): PageRange[] {
    if (this.#closed) throw new QemuError('The guest was killed, its RAM is gone');
    return this.#scanner.privatePages();
  }

  /** Frees what the file has of `part` under the guest's own pages; gives how many bytes. */
  releaseHidden(part: PageRange): number {
    if (this.#closed) throw new QemuError('The guest was killed, its RAM is gone');
    const inFile = this.#file.dataRanges(part);
    if (inFile.length === 0) return 0;
    const hidden = intersectRanges(inFile, this.#scanner.presentPrivatePages(part));
    this.#file.discard(hidden);
    return countBytes(hidden);
  }

  /**
   * Puts the guest's own pages into the RAM file, of a guest that stands still for good. Gives the
   * ranges, some at a time, when they are there: whoever drops the copies then keeps the memory
   * that is used as it was.
   */
  *fold(): Generator<PageRange[]> {
    const chunk = Buffer.allocUnsafe(FOLD_CHUNK_BYTES);
    let folded: PageRange[] = [];
    let bytes = 0;
    for (const { offset, length } of this.privatePages()) {
      for (let at = 0; at < length; at += FOLD_CHUNK_BYTES) {
        const part = chunk.subarray(0, Math.min(FOLD_CHUNK_BYTES, length - at));
        this.copyOut(offset + at, part);
        this.#file.map.write(offset + at, part);
        folded.push({ offset: offset + at, length: part.length });
        bytes += part.length;
        if (bytes < FOLD_TURN_BYTES) continue;
        yield folded;
        folded = [];
        bytes = 0;
      }
    }
    if (bytes > 0) yield folded;
  }

  close(): void {
    this.#closed = true;
    this.#scanner.close();
    this.#memory.close();
  }
}

function openPrivateScanner(mapping: Mapping): PagemapScanner | PagemapReader {
  const scanner = new PagemapScanner(mapping);
  try {
    scanner.privatePages();
    return scanner;
  } catch (error) {
    if (!(error instanceof SystemCallError)) throw error;
    // No PAGEMAP_SCAN before Linux 6.7; the entries say the same.
    scanner.close();
    return new PagemapReader(mapping);
  }
}
