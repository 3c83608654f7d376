/** Large reads by reference, as native/disk-reads.c follows them, against the NBD server. */
import { createHash } from 'node:crypto';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { CachedFile } from '../../../src/blockrep/block-layer-shell.js';
import { NBD_SEND_CACHED_BYTES_MIN } from '../../../src/blockrep/limits.js';
import { MemoryDisk, temporaryDirectory } from '../blockrep/support.js';
import { runClient } from './disk-client-process.js';
import { DISK_BYTES, fill, planReads } from './disk-plan.js';

const IMAGE_SWITCH = 40;

/**
 * Says of every other large read that it is cached. From the 40th read on it is another image, most
 * likely with the descriptor that the first one had.
 */
class CachedDisk extends MemoryDisk {
  lentBytes = 0;
  /** What the client must get. */
  readonly digests: string[] = [];
  readonly #directory: string;
  readonly #mayLend: boolean;
  #file: CachedFile;
  #asked = 0;

  constructor(directory: string, options: { mayLend: boolean }) {
    super(DISK_BYTES);
    this.#directory = directory;
    this.#mayLend = options.mayLend;
    this.#file = this.#open(1);
  }

  cachedFile(offset: number, length: number): CachedFile | undefined {
    this.#asked += 1;
    if (this.#asked % 2 === 0) return undefined;
    this.#tell(offset, length);
    if (!this.#mayLend) return { fd: this.#file.fd, serial: undefined, isWhole: false };
    this.lentBytes += length;
    return this.#file;
  }

  override read(offset: number, length: number): Promise<Buffer> {
    this.#tell(offset, length);
    return super.read(offset, length);
  }

  override async close(): Promise<void> {
    closeSync(this.#file.fd);
  }

  #tell(offset: number, length: number): void {
    if (this.digests.length === IMAGE_SWITCH) {
      closeSync(this.#file.fd);
      this.#file = this.#open(2);
    }
    const bytes = this.bytes.subarray(offset, offset + length);
    this.digests.push(createHash('sha256').update(bytes).digest('hex'));
  }

  #open(serial: number): CachedFile {
    const file = path.join(this.#directory, `image-${serial}`);
    fill(this.bytes, serial);
    writeFileSync(file, this.bytes);
    return { fd: openSync(file, 'r'), serial, isWhole: false };
  }
}

interface Outcome {
  readonly disk: CachedDisk;
  readonly digests: readonly string[];
  readonly readInAll: number;
}

/** Runs the client against such a disk. */
async function read(
  t: ExecutionContext,
  options: { seed: number; manner?: 'greedy'; mayLend?: false; isDisk?: false },
): Promise<Outcome> {
  const { seed, manner = 'exact', mayLend = true, isDisk = true } = options;
  const disk = new CachedDisk(temporaryDirectory(t), { mayLend });
  t.teardown(() => disk.close());
  const outcome = await runClient<Omit<Outcome, 'disk'>>(t, {
    program: './disk-reads-child.js',
    args: [String(seed), manner],
    server: { exports: new Map([['disk0', disk]]), lendsFiles: true },
    isDisk,
  });
  t.deepEqual(outcome.digests, disk.digests);
  t.is(disk.digests.length, planReads(seed).length);
  return { disk, ...outcome };
}

for (const seed of [1, 2, 3]) {
  for (const manner of [undefined, 'greedy'] as const) {
    const how = manner ?? 'as QEMU does';
    test(`what is cached is read from the image by whoever asked, ${how}, seed ${seed}`, async (t) => {
      const { disk, readInAll } = await read(t, { seed, ...(manner && { manner }) });
      t.true(disk.lentBytes > 10 * NBD_SEND_CACHED_BYTES_MIN, `${disk.lentBytes} bytes lent`);
      t.true(readInAll >= disk.lentBytes, `${readInAll} of ${disk.lentBytes} bytes read`);
    });
  }
}

test('an image that nobody else may open is sent', async (t) => {
  const { readInAll } = await read(t, { seed: 4, mayLend: false });
  t.true(readInAll < NBD_SEND_CACHED_BYTES_MIN, `${readInAll} bytes read`);
});

test('a socket of somebody else gets the data themselves', async (t) => {
  const { readInAll } = await read(t, { seed: 5, isDisk: false });
  t.true(readInAll < NBD_SEND_CACHED_BYTES_MIN, `${readInAll} bytes read`);
});
