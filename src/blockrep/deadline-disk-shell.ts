/**
 * A layer that gives each request a time to be done in: a disk that hangs fails instead.
 *
 * A request that is overdue is still with the layer below, and a write may take effect at any time.
 * So until it is done every other request fails too: nothing newer can be overwritten by it, and
 * who repeats a failed write (QEMU does) repeats it after the old one.
 */
import type {
  BlockLayer,
  ByteRange,
  CachedFile,
  RangeQuery,
  ZeroOptions,
} from './block-layer-shell.js';
import { readInto } from './block-layer-shell.js';
import { DiskError } from './errors.js';
import { DISK_REQUEST_MS_MAX } from './limits.js';
import type { LentData } from './nbd-references.js';

export class DeadlineDisk implements BlockLayer {
  readonly #base: BlockLayer;
  readonly #timeoutMs: number;
  /** In the order of their deadlines; `overdue` ones have been failed. */
  readonly #requests = new Set<Request>();
  #overdue = 0;
  #timer: NodeJS.Timeout | undefined;

  /** `timeoutMs`: for each request. */
  constructor(base: BlockLayer, timeoutMs = DISK_REQUEST_MS_MAX) {
    this.#base = base;
    this.#timeoutMs = timeoutMs;
  }

  get sizeBytes(): number {
    return this.#base.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#base.readOnly;
  }

  /** Of a request that was given up the data is still in use. */
  get keepsData(): boolean {
    return this.#base.keepsData !== false;
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#within('read', () => this.#base.read(offset, length));
  }

  readInto(offset: number, target: Buffer): Promise<void> {
    return this.#within('read', () => readInto(this.#base, offset, target));
  }

  cachedFile(offset: number, length: number): CachedFile | undefined {
    return this.#overdue > 0 ? undefined : this.#base.cachedFile?.(offset, length);
  }

  write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    return this.#within('write', () => this.#base.write(offset, data, fua));
  }

  writeLent(offset: number, data: LentData): boolean {
    return this.#overdue === 0 && this.#base.writeLent?.(offset, data) === true;
  }

  writeZeroes(offset: number, length: number, options: ZeroOptions): Promise<void> {
    return this.#within('write', () => this.#base.writeZeroes(offset, length, options));
  }

  trim(offset: number, length: number): Promise<void> {
    return this.#within('trim', () => this.#base.trim(offset, length));
  }

  flush(): Promise<void> {
    return this.#within('flush', () => this.#base.flush());
  }

  /** Waits for what is overdue, however long. */
  close(): Promise<void> {
    clearTimeout(this.#timer);
    return this.#base.close();
  }

  dataRanges(query?: RangeQuery): ByteRange[] {
    const { offset, length } = query ?? { offset: 0, length: this.sizeBytes };
    return this.#base.dataRanges?.(query) ?? [{ offset, length }];
  }

  #within<T>(action: string, work: () => Promise<T>): Promise<T> {
    if (this.#overdue > 0) return Promise.reject(this.#hangs(action));
    return new Promise((resolve, reject) => {
      const request: Request = { atMs: performance.now(), action, overdue: false, reject };
      this.#requests.add(request);
      this.#schedule();
      const end = (): void => {
        this.#requests.delete(request);
        if (request.overdue) this.#overdue -= 1;
      };
      work().then(
        (result) => {
          end();
          resolve(result);
        },
        (error) => {
          end();
          reject(error);
        },
      );
    });
  }

  /** One timer for all: it fires at the first deadline there was, and is made again if need be. */
  #schedule(): void {
    if (this.#timer !== undefined) return;
    const [first] = [...this.#requests].filter(({ overdue }) => !overdue);
    if (first === undefined) return;
    const delayMs = Math.max(1, first.atMs + this.#timeoutMs - performance.now());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#expire();
      this.#schedule();
    }, delayMs);
  }

  #expire(): void {
    const nowMs = performance.now();
    for (const request of this.#requests) {
      if (request.overdue || request.atMs + this.#timeoutMs > nowMs) continue;
      request.overdue = true;
      this.#overdue += 1;
      request.reject(this.#hangs(request.action));
    }
  }

  #hangs(action: string): DiskError {
    return new DiskError(
      `Cannot ${action}: the disk has not answered for ${this.#timeoutMs} ms`,
      'ETIMEDOUT',
    );
  }
}

interface Request {
  readonly atMs: number;
  readonly action: string;
  readonly reject: (error: Error) => void;
  overdue: boolean;
}
