import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { PAGE_SIZE_BYTES, Prng, ProtocolError } from '../../../src/lib/index.js';
import {
  DigestComparison,
  DigestDecoder,
  digestPages,
  encodeBatch,
  encodeDigests,
  PageBitmap,
  PageDecoder,
  PageEncoder,
  RamImageStore,
} from '../../../src/migration/index.js';
import { fillRandom, PageRam } from '../../support/page-ram.js';
import { temporaryFolder } from '../../support/temporary.js';

const BATCH_PAGES = 4096;

/** Digests of so many pages, a share of them of zeroes. */
function digestsOf(pages: number, seed: number, zeroShare: number): Buffer {
  const digests = Buffer.alloc(pages * 16);
  const prng = new Prng(seed);
  for (let at = 0; at < digests.length; at += 16) {
    if (prng.chance(zeroShare)) continue;
    for (let word = 0; word < 16; word += 4)
      digests.writeUInt32LE((prng.nextUint32() | 1) >>> 0, at + word);
  }
  return digests;
}

function compare(pages: number, batches: Iterable<Buffer>, ours: Buffer): PageBitmap | undefined {
  const decoder = new DigestDecoder(pages);
  const comparison = new DigestComparison(pages);
  for (const bytes of batches) {
    const { first, digests } = decoder.add(bytes);
    const from = first * 16;
    comparison.add(first, digests, ours.subarray(from, from + digests.length));
  }
  if (comparison.finished !== undefined && !decoder.finished) throw new Error('They disagree');
  return comparison.finished;
}

test('exactly the pages whose digests differ are to be sent', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(1, 7, 4095, 4096, 4097, 9000),
      fc.nat(),
      fc.constantFrom(0, 0.5, 0.99, 1),
      fc.array(fc.nat(), { maxLength: 100 }),
      (pages, seed, zeroShare, changes) => {
        const theirs = digestsOf(pages, seed, zeroShare);
        const ours = Buffer.from(theirs);
        const expected = new PageBitmap(pages);
        for (const change of changes) {
          const at = (change % pages) * 16 + (change % 16);
          ours[at] = (ours[at] as number) ^ 0x80;
        }
        for (let page = 0; page < pages; page++) {
          if (ours.compare(theirs, page * 16, page * 16 + 16, page * 16, page * 16 + 16) !== 0) {
            expected.set(page);
          }
        }
        t.true(compare(pages, encodeDigests(theirs), ours)?.equals(expected));
      },
    ),
    { numRuns: 40 },
  );
});

test('digests of zero pages take one bit, and batches are bounded', (t) => {
  const pages = 3 * BATCH_PAGES;
  const zero = [...encodeDigests(Buffer.alloc(pages * 16))];
  t.deepEqual(
    zero.map((bytes) => bytes.length),
    [536, 536, 536],
  );
  for (const bytes of encodeDigests(digestsOf(pages, 1, 0))) t.true(bytes.length <= 66 * 1024);
});

test('batches that are broken, missing, doubled or of another RAM are refused', (t) => {
  const pages = BATCH_PAGES + 20;
  const digests = digestsOf(pages, 3, 0.3);
  const [first, second] = [...encodeDigests(digests)] as [Buffer, Buffer];
  const refused = (ramPages: number, ...batches: Buffer[]): void => {
    t.throws(() => compare(ramPages, batches, digests), { instanceOf: ProtocolError });
  };
  refused(pages, second);
  refused(pages, first, first);
  refused(pages, first, second, second);
  refused(pages + 1, first);
  for (let length = 0; length < second.length; length++) {
    refused(pages, first, second.subarray(0, length));
  }
  for (let at = 0; at < second.length; at++) {
    const broken = Buffer.from(second);
    broken[at] = (broken[at] as number) ^ (1 << (at % 8));
    refused(pages, first, broken);
  }
  refused(pages, first, Buffer.concat([second, Buffer.alloc(16, 1)]));
  t.is(compare(pages, [first], digests), undefined, 'Not all pages were compared');
  t.is(compare(pages, [first, second], digests)?.count, 0);
});

test('a guest comes back for a twentieth of its bytes if it changed a twentieth', async (t) => {
  const pages = 2000;
  const ram = new PageRam(pages);
  const prng = new Prng(6);
  for (let page = 0; page < pages; page += 1) if (page % 4 !== 0) fillRandom(ram.page(page), prng);
  const directory = join(temporaryFolder(t), 'ram');
  const store = new RamImageStore({ directory, bytesMax: 2 ** 30, ageMaxMs: 3_600_000 });
  const imageId = Buffer.alloc(16, 4);
  await store.save({ vm: 'web', imageId, epoch: 1, ram });
  // Elsewhere it goes on: pages change, become zero, and are used for the first time.
  for (let n = 0; n < pages / 20; n++) {
    const page = ram.page(prng.nextInt(0, pages - 1));
    if (prng.chance(0.2)) page.fill(0);
    else fillRandom(page, prng);
  }
  const there = new PageRam(pages);
  const image = await store.open('web', pages);
  if (image === undefined) return t.fail('It was not kept');
  await image.load(there);
  const ours = Buffer.alloc(pages * 16);
  digestPages(image.header.salt, ram.bytes, ours);
  const digests = [...encodeDigests(image.digests)];
  let sentBytes = digests.reduce((bytes, batch) => bytes + batch.length, 0);
  const toSend = compare(pages, digests, ours);
  if (toSend === undefined) return t.fail('The comparison did not end');
  const encoder = new PageEncoder({ ramPages: pages, cacheBytes: 0, destinationIsZero: false });
  const decoder = new PageDecoder(pages, there);
  for (const batch of encoder.encode(toSend.ranges(), ram)) {
    const bytes = Buffer.concat(encodeBatch(batch));
    sentBytes += bytes.length;
    decoder.apply(bytes);
  }
  await image.close();
  t.true(there.bytes.equals(ram.bytes));
  t.true(sentBytes < 0.07 * pages * PAGE_SIZE_BYTES, `${sentBytes} bytes`);
});
