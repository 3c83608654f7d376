/** An image that is lent as a whole: native/disk-reads.c answers reads, against the NBD server. */
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { CachedFile } from '../../../src/blockrep/block-layer-shell.js';
import { MemoryDisk, temporaryDirectory } from '../blockrep/support.js';
import { runClient } from './disk-client-process.js';
import { DISK_BYTES, fill, LENT_BYTES, planBurst, planLent } from './disk-plan.js';

/** In the page cache as far as `LENT_BYTES`; a hole behind. */
class LentDisk extends MemoryDisk {
  asked = 0;
  readonly #file: CachedFile;

  constructor(t: ExecutionContext, options: { isWhole: boolean }) {
    super(DISK_BYTES);
    const data = this.bytes.subarray(0, LENT_BYTES);
    fill(data, 1);
    const fd = openSync(path.join(temporaryDirectory(t), 'image'), 'w+');
    t.teardown(() => closeSync(fd));
    ftruncateSync(fd, DISK_BYTES);
    writeSync(fd, data);
    this.#file = { fd, serial: 1, ...options };
  }

  cachedFile(offset: number, length: number): CachedFile | undefined {
    if (offset + length > LENT_BYTES) return undefined;
    this.asked += 1;
    return this.#file;
  }

  override read(offset: number, length: number): Promise<Buffer> {
    this.asked += 1;
    return super.read(offset, length);
  }
}

async function read(t: ExecutionContext, seed: number, options: { isWhole: boolean }) {
  const disk = new LentDisk(t, options);
  const { digests } = await runClient<{ digests: string[] }>(t, {
    program: './disk-lent-child.js',
    args: [String(seed)],
    server: { exports: new Map([['disk0', disk]]), lendsFiles: true },
    isDisk: true,
  });
  const plan = seed < 0 ? planBurst(-seed) : planLent(seed);
  const expected = plan.flatMap(({ reads }) =>
    reads.map(({ offset, length }) => {
      const bytes = disk.bytes.subarray(offset, offset + length);
      return createHash('sha256').update(bytes).digest('hex');
    }),
  );
  t.deepEqual(digests, expected);
  return disk.asked;
}

for (const seed of [1, 2, 3]) {
  test(`reads are answered when nobody waits for the socket and all is cached, seed ${seed}`, async (t) => {
    let asked = 0;
    let answered = 0;
    for (const [index, { looks, reads }] of planLent(seed).entries()) {
      // Until the client looks again there is room for one reply.
      const isCached = reads.some(({ offset, length }) => offset + length <= LENT_BYTES);
      const answers = index > 0 && !looks && isCached ? 1 : 0;
      answered += answers;
      asked += reads.length - answers;
    }
    t.is(await read(t, seed, { isWhole: true }), asked);
    t.true(asked > 10 && answered > 10, `${asked} asked, ${answered} answered`);
  });
}

test('of a file that is lent for one read at a time every read is asked for', async (t) => {
  const reads = planLent(4).reduce((sum, each) => sum + each.reads.length, 0);
  t.is(await read(t, 4, { isWhole: false }), reads);
});

test('after 32 MiB of answers one read is asked for', async (t) => {
  // The first, the 34th and the 67th.
  t.is(await read(t, -70, { isWhole: true }), 3);
});
