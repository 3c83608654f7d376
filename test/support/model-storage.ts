/**
 * Disks and a directory in memory that can be killed and lose power.
 *
 * Each file has a durable state and a cache in front of it. What is written and not synced is, at a
 * power cut, there or not, sector by sector, in any of its versions; at a kill all of it stays.
 * Operations take a random number of turns; `crashAfter` counts them, and at the last one everything
 * stops: nothing of that life resolves any more, writes on their way are done in part or not.
 */
import type { ByteRange } from '../../src/blockrep/block-layer-shell.js';
import {
  DiskError,
  type StorageDirectory,
  type StorageFile,
  type StorageImage,
} from '../../src/blockrep/index.js';
import type { Prng } from '../../src/lib/index.js';

const SECTOR = 512;

type CrashKind = 'kill' | 'power';

export class ModelStorage implements StorageDirectory {
  readonly #prng: Prng;
  readonly #disks = new Map<string, ModelDisk>();
  #life = 0;
  #left = Number.POSITIVE_INFINITY;
  #inFlight = new Set<(keep: number) => void>();
  #onCrash: () => void = () => undefined;
  /** Resolves when this life ends. */
  crashed: Promise<void>;
  /** Operations of all lives. */
  operations = 0;
  /** Names of the files that were synced, in order. */
  readonly flushes: string[] = [];
  /** Writes to files with such a name fail. */
  failWrites: RegExp | undefined;

  constructor(prng: Prng) {
    this.#prng = prng;
    this.crashed = this.#live();
  }

  /** The image's bytes, made at the first call. */
  disk(name: string, sizeBytes = 0): ModelDisk {
    let disk = this.#disks.get(name);
    if (disk === undefined) {
      disk = new ModelDisk(sizeBytes);
      this.#disks.set(name, disk);
    }
    return disk;
  }

  names(): string[] {
    return [...this.#disks.keys()];
  }

  /** A handle that is dead after the next crash. */
  image(name: string): StorageImage {
    return new ModelFile(this, name, this.disk(name));
  }

  async open(name: string): Promise<StorageFile | undefined> {
    await this.step();
    return this.#disks.has(name) ? this.image(name) : undefined;
  }

  async create(name: string, sizeBytes: number): Promise<StorageFile> {
    await this.step();
    this.#disks.set(name, new ModelDisk(sizeBytes));
    return this.image(name);
  }

  async remove(name: string): Promise<void> {
    await this.step();
    this.#disks.delete(name);
  }

  /** The life ends at the so-many-th operation from now. */
  crashAfter(operations: number): void {
    this.#left = operations;
  }

  /** Ends this life now, if it has not ended, and begins the next one. */
  restart(kind: CrashKind): void {
    if (this.#left > 0) this.#crash();
    for (const disk of this.#disks.values()) {
      if (kind === 'power') disk.powerCut(this.#prng);
      else disk.settle();
    }
    this.#life += 1;
    this.#left = Number.POSITIVE_INFINITY;
    this.crashed = this.#live();
  }

  get life(): number {
    return this.#life;
  }

  /** Takes some turns; never resolves when the life ends meanwhile. */
  async step(effect?: (keep: number) => void): Promise<void> {
    const life = this.#life;
    if (effect !== undefined) this.#inFlight.add(effect);
    for (let turns = this.#prng.nextInt(1, 3); turns > 0; turns--) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (life !== this.#life || this.#left <= 0) return never();
    this.operations += 1;
    this.#left -= 1;
    if (this.#left <= 0) {
      this.#crash();
      return never();
    }
    if (effect === undefined) return;
    this.#inFlight.delete(effect);
    effect(1);
  }

  #live(): Promise<void> {
    return new Promise((resolve) => {
      this.#onCrash = resolve;
    });
  }

  #crash(): void {
    this.#left = 0;
    for (const effect of this.#inFlight) effect(this.#prng.pick([0, 0, 0.3, 0.7, 1]));
    this.#inFlight.clear();
    this.#onCrash();
  }
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}

/** The bytes of one file: what is read, and what survives. */
export class ModelDisk {
  cache: Buffer;
  durable: Buffer;
  /** By sector, what was written since it was last synced, oldest first. */
  #pending = new Map<number, Buffer[]>();

  constructor(sizeBytes: number) {
    this.cache = Buffer.alloc(sizeBytes);
    this.durable = Buffer.alloc(sizeBytes);
  }

  write(offset: number, data: Buffer): void {
    const end = offset + data.length;
    if (end > this.cache.length) this.cache = grown(this.cache, end);
    data.copy(this.cache, offset);
    for (let at = Math.floor(offset / SECTOR); at * SECTOR < end; at++) {
      const version = Buffer.from(this.cache.subarray(at * SECTOR, (at + 1) * SECTOR));
      const versions = this.#pending.get(at);
      if (versions === undefined) this.#pending.set(at, [version]);
      else versions.push(version);
    }
  }

  /** What there is to sync now; call the result when the sync is done. */
  sync(): () => void {
    const upTo = [...this.#pending].map(([at, versions]) => [at, versions.length] as const);
    return () => {
      for (const [at, count] of upTo) {
        const versions = this.#pending.get(at);
        const version = versions?.[count - 1];
        if (versions === undefined || version === undefined) continue;
        this.#persist(at, version);
        versions.splice(0, count);
        if (versions.length === 0) this.#pending.delete(at);
      }
    };
  }

  powerCut(prng: Prng): void {
    for (const [at, versions] of this.#pending) {
      const keep = prng.nextInt(0, versions.length);
      const version = versions[keep - 1];
      if (version !== undefined) this.#persist(at, version);
    }
    this.#pending.clear();
    this.cache = Buffer.from(this.durable);
  }

  /** The machine lives on and writes back what is in its cache. */
  settle(): void {
    this.#pending.clear();
    this.durable = Buffer.from(this.cache);
  }

  #persist(at: number, version: Buffer): void {
    const end = at * SECTOR + version.length;
    if (end > this.durable.length) this.durable = grown(this.durable, end);
    version.copy(this.durable, at * SECTOR);
  }
}

function grown(bytes: Buffer, sizeBytes: number): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(sizeBytes - bytes.length)]);
}

class ModelFile implements StorageImage {
  readonly path: string;
  readonly readOnly = false;
  readonly sizeBytes: number;
  readonly #storage: ModelStorage;
  readonly #disk: ModelDisk;
  readonly #life: number;

  constructor(storage: ModelStorage, name: string, disk: ModelDisk) {
    this.path = name;
    this.#storage = storage;
    this.#disk = disk;
    this.#life = storage.life;
    this.sizeBytes = disk.cache.length;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    await this.#step();
    if (offset + length > this.#disk.cache.length) throw new DiskError('End of file', 'EIO');
    return Buffer.from(this.#disk.cache.subarray(offset, offset + length));
  }

  write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    return this.#change(offset, data, fua);
  }

  writeMany(offset: number, parts: readonly Buffer[]): Promise<void> {
    return this.#change(offset, Buffer.concat(parts), false);
  }

  writeZeroes(offset: number, length: number, options: { fua: boolean }): Promise<void> {
    // Beyond the end nothing is made: like fallocate that keeps the size.
    const inside = Math.max(0, Math.min(length, this.#disk.cache.length - offset));
    return this.#change(offset, Buffer.alloc(inside), options.fua);
  }

  trim(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length, { fua: false });
  }

  async flush(): Promise<void> {
    const done = this.#disk.sync();
    await this.#step();
    done();
    this.#storage.flushes.push(this.path);
  }

  dataRanges(): ByteRange[] {
    return [{ offset: 0, length: this.sizeBytes }];
  }

  async close(): Promise<void> {}

  async #change(offset: number, data: Buffer, fua: boolean): Promise<void> {
    if (this.#storage.failWrites?.test(this.path) === true) {
      throw new DiskError(`Cannot write ${this.path}`, 'ENOSPC');
    }
    await this.#step((keep) => {
      const sectors = Math.ceil(data.length / SECTOR);
      const part = keep === 1 ? data.length : Math.floor(sectors * keep) * SECTOR;
      this.#disk.write(offset, data.subarray(0, part));
    });
    if (fua) await this.flush();
  }

  #step(effect?: (keep: number) => void): Promise<void> {
    return this.#life === this.#storage.life ? this.#storage.step(effect) : never();
  }
}
