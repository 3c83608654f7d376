import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { crc32c, ProtocolError } from '../../../src/lib/index.js';
import {
  DigestDecoder,
  encodeDigests,
  openBackup,
  PageBitmap,
  PageDecoder,
  RamImageStore,
  writeBackup,
} from '../../../src/migration/index.js';
import { goldenPath } from '../../support/golden.js';
import {
  encodedBatch,
  fromRows,
  GOLDEN_ID,
  goldenBatch,
  goldenDigests,
  goldenImage,
  goldenRam,
  toRows,
} from '../../support/migration-golden.js';
import { PageRam } from '../../support/page-ram.js';
import { temporaryFolder } from '../../support/temporary.js';

function readText(name: string): string {
  return readFileSync(goldenPath(`migration/${name}.txt`), 'utf8');
}

/** The destination of the golden batch: page 9 is as it was sent before. */
function destination(): PageRam {
  const ram = goldenRam();
  for (let page = 0; page < 16; page++) if (page !== 9) ram.page(page).fill(0x5a);
  return ram;
}

/** What the golden batch makes of the first ten pages. */
function expected(): Buffer {
  const ram = goldenRam();
  for (const word of [0, 2, 100]) ram.page(9).writeUInt32BE(0xdada0000 + word, word * 4);
  return ram.bytes.subarray(0, 10 * 4096);
}

test('the golden batch is encoded as ever', (t) => {
  t.is(toRows(encodedBatch(goldenBatch())), readText('page-batch'));
});

for (const name of ['page-batch', 'page-batch-lz4']) {
  test(`${name} is decoded as ever`, (t) => {
    const ram = destination();
    const applied = new PageDecoder(16, ram).apply(fromRows(readText(name)));
    t.deepEqual(applied.runs, [
      { first: 0, count: 2, kind: 'zero' },
      { first: 2, count: 2, kind: 'raw' },
      { first: 4, count: 5, kind: 'zero' },
      { first: 9, count: 1, kind: 'delta' },
    ]);
    t.true(ram.bytes.subarray(0, 10 * 4096).equals(expected()));
  });

  test(`${name} cut at any length is refused`, (t) => {
    const bytes = fromRows(readText(name));
    const ram = destination();
    const decoder = new PageDecoder(16, ram);
    for (let length = 0; length < bytes.length; length++) {
      t.throws(() => decoder.apply(bytes.subarray(0, length)), { instanceOf: ProtocolError });
    }
    t.is(ram.writes, 0);
  });

  test(`${name} with any field at or beyond its bounds is refused, its checksum right`, (t) => {
    const golden = fromRows(readText(name));
    const ram = destination();
    const decoder = new PageDecoder(16, ram);
    // Each count and length of the header, and first and count of each of the four runs.
    const fields = [8, 12, 16, 20];
    for (let run = 0; run < 4; run++) fields.push(28 + run * 9, 28 + run * 9 + 4);
    for (const at of fields) {
      const right = golden.readUInt32BE(at);
      for (const value of [
        0,
        1,
        right - 1,
        right + 1,
        4096,
        65_536,
        65_537,
        524_289,
        2 ** 32 - 1,
      ]) {
        if (value === right || value < 0) continue;
        const bytes = Buffer.from(golden);
        bytes.writeUInt32BE(value, at);
        bytes.writeUInt32BE(crc32c(bytes.subarray(28), crc32c(bytes.subarray(0, 24))), 24);
        t.throws(() => decoder.apply(bytes), { instanceOf: ProtocolError }, `${value} at ${at}`);
      }
    }
    t.is(ram.writes, 0);
  });
}

test('golden digests are encoded and decoded as ever', (t) => {
  const batches = [...encodeDigests(goldenDigests())];
  t.is(batches.length, 1);
  t.is(toRows(batches[0] as Buffer), readText('digests'));
  const { first, digests } = new DigestDecoder(16).add(fromRows(readText('digests')));
  t.is(first, 0);
  t.true(digests.equals(goldenDigests()));
});

test('the golden backup file is written and read as ever', async (t) => {
  const path = join(temporaryFolder(t), 'backup');
  const missing = new PageBitmap(16);
  missing.set(0, 2);
  missing.set(12, 1);
  await writeBackup({ path, migrationId: GOLDEN_ID, ram: goldenRam(), missing });
  t.is(toRows(readFileSync(path)), readText('backup-file'));
  writeFileSync(path, fromRows(readText('backup-file')));
  const backup = await openBackup(path);
  const ram = goldenRam();
  ram.page(1).fill(7);
  ram.page(12).fill(7);
  t.is(await backup.apply(ram), 3);
  await backup.close();
  t.true(ram.bytes.equals(goldenRam().bytes));
});

test('the golden RAM image is read as ever', async (t) => {
  t.is(toRows(goldenImage()), readText('ram-image'));
  const directory = temporaryFolder(t);
  writeFileSync(join(directory, 'web.ram'), fromRows(readText('ram-image')));
  const nowMs = (): number => 1_700_000_000_001;
  const store = new RamImageStore({ directory, bytesMax: 2 ** 30, ageMaxMs: 1000, nowMs });
  const image = await store.open('web', 16);
  t.is(image?.header.epoch, 42);
  t.true(image?.header.imageId.equals(GOLDEN_ID));
  const ram = new PageRam(16);
  t.is(await image?.load(ram), 4);
  await image?.close();
  t.true(ram.bytes.equals(goldenRam().bytes));
});
