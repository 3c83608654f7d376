import {
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { PAGE_SIZE_BYTES, Prng } from '../../../src/lib/index.js';
import { BackupError, openBackup, PageBitmap, writeBackup } from '../../../src/migration/index.js';
import { fillHeap, fillRandom, PageRam } from '../../support/page-ram.js';
import { temporaryFolder } from '../../support/temporary.js';

const PAGES = 400;
const ID = Buffer.alloc(16, 0xab);

function randomRam(seed: number): PageRam {
  const ram = new PageRam(PAGES);
  const prng = new Prng(seed);
  for (let page = 0; page < PAGES; page++) {
    const kind = prng.nextInt(0, 3);
    if (kind === 1) fillRandom(ram.page(page), prng);
    if (kind === 2) fillHeap(ram.page(page), prng);
  }
  return ram;
}

function bitmapOf(runs: readonly (readonly [number, number])[]): PageBitmap {
  const bitmap = new PageBitmap(PAGES);
  for (const [first, count] of runs) {
    if (first < PAGES) bitmap.set(first, Math.min(count, PAGES - first));
  }
  return bitmap;
}

const runs = fc.array(fc.tuple(fc.nat(PAGES), fc.integer({ min: 1, max: 200 })), { maxLength: 8 });

test('a destination that lacks any set of pages is completed from the file', async (t) => {
  const folder = temporaryFolder(t);
  await fc.assert(
    fc.asyncProperty(fc.nat(), runs, async (seed, missingRuns) => {
      const source = randomRam(seed);
      const missing = bitmapOf(missingRuns);
      const path = join(folder, 'backup');
      const written = await writeBackup({ path, migrationId: ID, ram: source, missing });
      t.is(written.bytes, statSync(path).size);
      t.is(statSync(path).mode & 0o777, 0o600);
      t.true(written.bytes <= 128 + missing.count * (PAGE_SIZE_BYTES + 9) + 64);
      const target = new PageRam(PAGES);
      source.bytes.copy(target.bytes);
      for (const { offset, length } of missing.ranges()) {
        target.bytes.fill(0xee, offset, offset + length);
      }
      const backup = await openBackup(path);
      t.true(backup.pages.equals(missing));
      t.true(backup.migrationId.equals(ID));
      t.is(backup.ramPages, PAGES);
      t.is(await backup.apply(target), missing.count);
      await backup.close();
      t.true(target.bytes.equals(source.bytes));
    }),
    { numRuns: 25 },
  );
});

test('pages that came in another way are not written over', async (t) => {
  const path = join(temporaryFolder(t), 'backup');
  const source = randomRam(1);
  await writeBackup({ path, migrationId: ID, ram: source, missing: bitmapOf([[0, PAGES]]) });
  const target = new PageRam(PAGES);
  target.bytes.fill(0x11);
  const only = bitmapOf([
    [3, 40],
    [100, 1],
  ]);
  const backup = await openBackup(path);
  t.is(await backup.apply(target, { only }), 41);
  await backup.close();
  for (let page = 0; page < PAGES; page++) {
    const expected = only.has(page) ? source.page(page) : Buffer.alloc(PAGE_SIZE_BYTES, 0x11);
    t.true(target.page(page).equals(expected), `Page ${page}`);
  }
});

/** A file of about 5 kB with every kind of page. */
async function smallBackup(t: ExecutionContext): Promise<{ path: string; bytes: Buffer }> {
  const path = join(temporaryFolder(t), 'backup');
  const source = new PageRam(PAGES);
  const prng = new Prng(2);
  fillHeap(source.page(1), prng);
  fillHeap(source.page(2), prng);
  const missing = bitmapOf([[0, 5]]);
  await writeBackup({ path, migrationId: ID, ram: source, missing });
  return { path, bytes: readFileSync(path) };
}

test('a file with any byte changed is refused before a page is given', async (t) => {
  const { path, bytes } = await smallBackup(t);
  for (let at = 0; at < bytes.length; at++) {
    const broken = Buffer.from(bytes);
    broken[at] = (broken[at] as number) ^ (1 << (at % 8));
    writeFileSync(path, broken);
    const error = await t.throwsAsync(openBackup(path), { instanceOf: BackupError });
    if (error === undefined) return;
  }
});

test('a file cut anywhere, or with bytes behind its end, is refused', async (t) => {
  const { path, bytes } = await smallBackup(t);
  for (let length = bytes.length - 1; length >= 0; length -= length < 200 ? 1 : 13) {
    truncateSync(path, length);
    await t.throwsAsync(openBackup(path), { instanceOf: BackupError });
  }
  writeFileSync(path, Buffer.concat([bytes, Buffer.from([0])]));
  await t.throwsAsync(openBackup(path), { instanceOf: BackupError, message: /has \d+ bytes/ });
  writeFileSync(path, bytes);
  await (await openBackup(path)).close();
});

test('a file that changes after it was verified gives no broken page', async (t) => {
  const { path, bytes } = await smallBackup(t);
  const backup = await openBackup(path);
  const target = new PageRam(PAGES);
  for (const at of [150, bytes.length - 1]) {
    const broken = Buffer.from(bytes);
    broken[at] = (broken[at] as number) ^ 1;
    writeFileSync(path, broken);
    await t.throwsAsync(backup.apply(target), { instanceOf: BackupError });
  }
  truncateSync(path, 200);
  await t.throwsAsync(backup.apply(target), { instanceOf: BackupError });
  t.is(target.writes, 0);
  await backup.close();
});

test('progress is told, and an abort at any point of it leaves no file', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'backup');
  const source = randomRam(3);
  const missing = bitmapOf([[0, PAGES]]);
  const seen: number[] = [];
  await writeBackup({
    path: join(folder, 'whole'),
    migrationId: ID,
    ram: source,
    missing,
    onProgress: (done, total) => {
      t.is(total, PAGES);
      seen.push(done);
    },
  });
  t.true(seen.length > 1);
  t.is(seen.at(-1), PAGES);
  for (const stopAt of seen) {
    const abort = new AbortController();
    await t.throwsAsync(
      writeBackup({
        path,
        migrationId: ID,
        ram: source,
        missing,
        signal: abort.signal,
        onProgress: (done) => {
          if (done === stopAt) abort.abort(new Error('Enough'));
        },
      }),
      { message: 'Enough' },
    );
    t.deepEqual(readdirSync(folder), ['whole']);
  }
  const abort = new AbortController();
  abort.abort(new Error('Not now'));
  const options = { signal: abort.signal };
  await t.throwsAsync(openBackup(join(folder, 'whole'), options), { message: 'Not now' });
});

test('what a failed attempt leaves is replaced, and a failing one leaves the old file', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'backup');
  writeFileSync(`${path}.partial`, 'left by a crash');
  const missing = bitmapOf([[0, 9]]);
  await writeBackup({ path, migrationId: ID, ram: randomRam(4), missing });
  const before = readFileSync(path);
  const ram = {
    copyOut(): void {
      throw new Error('QEMU has ended');
    },
  };
  await t.throwsAsync(writeBackup({ path, migrationId: ID, ram, missing }), { message: /QEMU/ });
  t.deepEqual(readdirSync(folder), ['backup']);
  t.true(readFileSync(path).equals(before));
  const nowhere = join(folder, 'none', 'backup');
  await t.throwsAsync(writeBackup({ path: nowhere, migrationId: ID, ram: randomRam(4), missing }), {
    code: 'ENOENT',
  });
  t.false(existsSync(nowhere));
});
