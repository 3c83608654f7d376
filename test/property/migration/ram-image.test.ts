import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { PAGE_SIZE_BYTES, Prng } from '../../../src/lib/index.js';
import {
  digestPages,
  PageBitmap,
  RamImageError,
  RamImageStore,
  type RamImageStoreOptions,
} from '../../../src/migration/index.js';
import { fillHeap, fillRandom, PageRam } from '../../support/page-ram.js';
import { temporaryFolder } from '../../support/temporary.js';

const PAGES = 700;
const ID = Buffer.alloc(16, 0xcd);
const GIB = 1024 ** 3;

/** `share` of the pages are not zero. */
function sparseRam(seed: number, share: number): PageRam {
  const ram = new PageRam(PAGES);
  const prng = new Prng(seed);
  for (let page = 0; page < PAGES; page++) {
    if (!prng.chance(share)) continue;
    if (prng.chance(0.5)) fillRandom(ram.page(page), prng);
    else fillHeap(ram.page(page), prng);
  }
  return ram;
}

function overwrite(path: string, at: number, byte: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.from([byte]), 0, 1, at);
  closeSync(fd);
}

function storeIn(t: ExecutionContext, options: Partial<RamImageStoreOptions> = {}) {
  const directory = join(temporaryFolder(t), 'ram');
  const all = { directory, bytesMax: GIB, ageMaxMs: 3_600_000, ...options };
  return { directory, store: new RamImageStore(all) };
}

test('a guest that returns finds its RAM as it left it', async (t) => {
  const { directory, store } = storeIn(t);
  await fc.assert(
    fc.asyncProperty(fc.nat(), fc.constantFrom(0, 0.05, 0.5, 1), async (seed, share) => {
      const ram = sparseRam(seed, share);
      const saved = await store.save({ vm: 'web', imageId: ID, epoch: seed, ram });
      t.true(saved.kept);
      const path = join(directory, 'web.ram');
      t.is(statSync(path).mode & 0o777, 0o600);
      t.is(statSync(directory).mode & 0o777, 0o700);
      const image = await store.open('web', PAGES);
      if (image === undefined) return t.fail('It was not kept');
      t.true(image.header.imageId.equals(ID));
      t.is(image.header.epoch, seed);
      const expected = Buffer.alloc(PAGES * 16);
      digestPages(image.header.salt, ram.bytes, expected);
      t.true(image.digests.equals(expected));
      const back = new PageRam(PAGES);
      t.is(await image.load(back), image.header.dataPages);
      t.true(back.bytes.equals(ram.bytes));
      const page = Buffer.alloc(PAGE_SIZE_BYTES);
      for (const index of [0, 1, 350, PAGES - 1]) {
        await image.readPage(index, page);
        t.true(page.equals(ram.page(index)));
      }
      await image.close();
    }),
    { numRuns: 8 },
  );
});

test('pages of zeroes and never touched ones take no room', async (t) => {
  const { directory, store } = storeIn(t);
  const ram = sparseRam(1, 0);
  fillRandom(ram.page(300), new Prng(1));
  const touched: number[] = [];
  const counting = {
    sizeBytes: ram.sizeBytes,
    copyOut(offset: number, target: Buffer): void {
      touched.push(offset / PAGE_SIZE_BYTES);
      ram.copyOut(offset, target);
    },
    dataRanges: () => [{ offset: 298 * PAGE_SIZE_BYTES, length: 5 * PAGE_SIZE_BYTES }],
  };
  const saved = await store.save({ vm: 'web', imageId: ID, epoch: 1, ram: counting });
  t.true(saved.kept && saved.bytes < 10 * PAGE_SIZE_BYTES);
  t.deepEqual(touched, [298]);
  const { size, blocks } = statSync(join(directory, 'web.ram'));
  t.true(size > PAGES * PAGE_SIZE_BYTES);
  t.true(blocks * 512 < 16 * PAGE_SIZE_BYTES, `${blocks} blocks`);
});

test('an image with any byte of header or digests changed is refused', async (t) => {
  const { directory, store } = storeIn(t);
  await store.save({ vm: 'web', imageId: ID, epoch: 1, ram: sparseRam(2, 0.1) });
  const path = join(directory, 'web.ram');
  const bytes = readFileSync(path);
  const tableEnd = 4096 + Math.ceil((PAGES * 16) / 4096) * 4096;
  // Every byte that means something, and samples of the reserved ones.
  for (let at = 0; at < tableEnd; at += at < 200 ? 1 : 41) {
    const byte = bytes[at] as number;
    overwrite(path, at, byte ^ (1 << (at % 8)));
    await t.throwsAsync(store.open('web', PAGES), { instanceOf: RamImageError }, `Byte ${at}`);
    overwrite(path, at, byte);
  }
  for (const length of [0, 10, 4095, 4096, tableEnd, bytes.length - 1]) {
    writeFileSync(path, bytes.subarray(0, length));
    await t.throwsAsync(
      store.open('web', PAGES),
      { instanceOf: RamImageError },
      `Cut at ${length}`,
    );
  }
  writeFileSync(path, Buffer.concat([bytes, Buffer.from([0])]));
  await t.throwsAsync(store.open('web', PAGES), { instanceOf: RamImageError });
});

test('a broken page is named, and does not reach the RAM', async (t) => {
  const { directory, store } = storeIn(t);
  const ram = sparseRam(3, 1);
  await store.save({ vm: 'web', imageId: ID, epoch: 1, ram });
  const path = join(directory, 'web.ram');
  const bytes = readFileSync(path);
  const dataAt = bytes.length - PAGES * PAGE_SIZE_BYTES;
  const prng = new Prng(9);
  for (let n = 0; n < 10; n++) {
    const page = prng.nextInt(0, PAGES - 1);
    const broken = Buffer.from(bytes);
    const at = dataAt + page * PAGE_SIZE_BYTES + prng.nextInt(0, PAGE_SIZE_BYTES - 1);
    broken[at] = (broken[at] as number) ^ 0x40;
    writeFileSync(path, broken);
    const image = await store.open('web', PAGES);
    if (image === undefined) return t.fail('It was not kept');
    const error = { instanceOf: RamImageError, message: new RegExp(`^Page ${page} `) };
    const target = new PageRam(PAGES);
    await t.throwsAsync(image.load(target), error);
    t.true(target.page(page).equals(Buffer.alloc(PAGE_SIZE_BYTES)));
    await t.throwsAsync(image.readPage(page, Buffer.alloc(PAGE_SIZE_BYTES)), error);
    await image.close();
  }
});

test('the image of another guest, another size or another time is not used', async (t) => {
  let now = 1_000_000;
  const { directory, store } = storeIn(t, { nowMs: () => now, ageMaxMs: 60_000 });
  t.is(await store.open('web', PAGES), undefined);
  await store.save({ vm: 'web', imageId: ID, epoch: 1, ram: sparseRam(4, 0.2) });
  await t.throwsAsync(store.open('web', PAGES + 1), { instanceOf: RamImageError });
  writeFileSync(join(directory, 'mail.ram'), readFileSync(join(directory, 'web.ram')));
  await t.throwsAsync(store.open('mail', PAGES), { instanceOf: RamImageError, message: /"web"/ });
  now += 60_001;
  t.is(await store.open('web', PAGES), undefined);
  t.deepEqual(readdirSync(directory), ['mail.ram']);
});

test('images make room for a new one, the oldest first, and no more than needed', async (t) => {
  const one = (PAGES + 40) * PAGE_SIZE_BYTES;
  const { directory, store } = storeIn(t, { bytesMax: 3 * one });
  for (const [n, vm] of ['a', 'b', 'c'].entries()) {
    t.true((await store.save({ vm, imageId: ID, epoch: 1, ram: sparseRam(n, 1) })).kept);
    const at = Date.now() / 1000 - 100 + n;
    utimesSync(join(directory, `${vm}.ram`), at, at);
  }
  t.deepEqual(readdirSync(directory).sort(), ['a.ram', 'b.ram', 'c.ram']);
  t.true((await store.save({ vm: 'd', imageId: ID, epoch: 1, ram: sparseRam(8, 1) })).kept);
  t.deepEqual(readdirSync(directory).sort(), ['b.ram', 'c.ram', 'd.ram']);
  // Its own older image is the first to go.
  t.true((await store.save({ vm: 'b', imageId: ID, epoch: 2, ram: sparseRam(9, 1) })).kept);
  t.deepEqual(readdirSync(directory).sort(), ['b.ram', 'c.ram', 'd.ram']);
  const less = new RamImageStore({ directory, bytesMax: one, ageMaxMs: 3_600_000 });
  await less.sweep();
  t.deepEqual(readdirSync(directory), ['b.ram']);
});

test('an image that does not fit, or is not wanted, is not kept', async (t) => {
  const { directory, store } = storeIn(t, { bytesMax: 300 * PAGE_SIZE_BYTES });
  const ram = sparseRam(1, 1);
  const saved = await store.save({ vm: 'web', imageId: ID, epoch: 1, ram });
  t.false(saved.kept);
  t.deepEqual(readdirSync(directory), []);
  t.true((await store.save({ vm: 'web', imageId: ID, epoch: 1, ram: sparseRam(1, 0.1) })).kept);
  const off = new RamImageStore({ directory, bytesMax: 0, ageMaxMs: 1 });
  t.false((await off.save({ vm: 'web', imageId: ID, epoch: 1, ram })).kept);
  t.deepEqual(readdirSync(directory), [], 'An older image of the guest would not be its state');
});

test('an aborted, failed or killed save leaves no image', async (t) => {
  const { directory, store } = storeIn(t);
  const ram = sparseRam(1, 1);
  const steps: number[] = [];
  const options = { vm: 'web', imageId: ID, epoch: 1, ram };
  await store.save({ ...options, onProgress: (done) => steps.push(done) });
  t.is(steps.at(-1), PAGES);
  t.true(steps.length > 1);
  for (const step of steps) {
    const abort = new AbortController();
    await t.throwsAsync(
      store.save({
        ...options,
        signal: abort.signal,
        onProgress: (done) => {
          if (done === step) abort.abort(new Error('Enough'));
        },
      }),
    );
    t.deepEqual(readdirSync(directory), []);
  }
  const dead = {
    sizeBytes: ram.sizeBytes,
    copyOut(): void {
      throw new Error('QEMU has ended');
    },
  };
  await t.throwsAsync(store.save({ ...options, ram: dead }), { message: 'QEMU has ended' });
  t.deepEqual(readdirSync(directory), []);
  writeFileSync(join(directory, 'mail.ram.partial'), 'left by a crash');
  await store.sweep();
  t.deepEqual(readdirSync(directory), []);
});

test('saving keeps to its rate', async (t) => {
  const { store } = storeIn(t);
  const ram = sparseRam(1, 0.2);
  const started = performance.now();
  const bytesPerSecond = 8 * ram.sizeBytes;
  await store.save({ vm: 'web', imageId: ID, epoch: 1, ram, bytesPerSecond });
  t.true(performance.now() - started >= 120, 'All of RAM in less than an eighth of a second');
});

test('pages differ by digest if and only if they differ', (t) => {
  fc.assert(
    fc.property(fc.nat(), fc.nat(), (seed, changes) => {
      const before = sparseRam(seed, 0.5);
      const after = sparseRam(seed, 0.5);
      const prng = new Prng(changes);
      const changed = new PageBitmap(PAGES);
      for (let n = prng.nextInt(0, 40); n > 0; n--) {
        const page = prng.nextInt(0, PAGES - 1);
        const at = prng.nextInt(0, PAGE_SIZE_BYTES - 1);
        const byte = after.page(page).readUInt8(at);
        after.page(page).writeUInt8(byte ^ (1 << prng.nextInt(0, 7)), at);
        changed.set(page);
      }
      const salt = Buffer.alloc(16, seed % 256);
      const [a, b] = [Buffer.alloc(PAGES * 16), Buffer.alloc(PAGES * 16)];
      digestPages(salt, before.bytes, a);
      digestPages(salt, after.bytes, b);
      for (let page = 0; page < PAGES; page++) {
        const same = before.page(page).equals(after.page(page));
        t.is(a.compare(b, page * 16, page * 16 + 16, page * 16, page * 16 + 16) === 0, same);
      }
    }),
    { numRuns: 10 },
  );
});
