import test from 'ava';
import fc from 'fast-check';
import { crc32c, PAGE_SIZE_BYTES, Prng, ProtocolError } from '../../../src/lib/index.js';
import {
  compressBatch,
  encodeBatch,
  PageBitmap,
  PageDecoder,
  PageEncoder,
  type PageEncoderOptions,
} from '../../../src/migration/index.js';
import { fillHeap, fillRandom, PageRam } from '../../support/page-ram.js';

const PAGES = 300;

/** What happens to a page between two rounds. */
const change = fc.record({
  // Some pages are written all the time.
  page: fc.oneof(fc.nat(5), fc.nat(PAGES - 1)),
  kind: fc.constantFrom('zero', 'random', 'heap', 'few', 'few', 'few', 'half', 'back'),
  seed: fc.nat(),
});
const history = fc.array(fc.array(change, { maxLength: 60 }), { minLength: 1, maxLength: 12 });

function apply(ram: PageRam, { page, kind, seed }: { page: number; kind: string; seed: number }) {
  const prng = new Prng(seed);
  const bytes = ram.page(page);
  const words = kind === 'few' ? prng.nextInt(1, 20) : 700;
  if (kind === 'zero') bytes.fill(0);
  else if (kind === 'random') fillRandom(bytes, prng);
  else if (kind === 'heap') fillHeap(bytes, prng);
  // 'back' writes what is there: a dirty page that did not change.
  else if (kind !== 'back') {
    for (let n = 0; n < words; n++)
      bytes.writeUInt32LE(prng.nextUint32(), prng.nextInt(0, 1023) * 4);
  }
}

function pair(options: Partial<PageEncoderOptions> = {}) {
  const source = new PageRam(PAGES);
  const target = new PageRam(PAGES);
  const encoder = new PageEncoder({
    ramPages: PAGES,
    cacheBytes: 64 * PAGE_SIZE_BYTES,
    destinationIsZero: true,
    ...options,
  });
  return { source, target, encoder, decoder: new PageDecoder(PAGES, target) };
}

test('after each round of any history the destination has what the source has', async (t) => {
  const seen = { zero: 0, raw: 0, delta: 0, same: 0 };
  await fc.assert(
    fc.asyncProperty(
      history,
      fc.constantFrom(0, 1, 20, 400),
      fc.boolean(),
      fc.boolean(),
      async (rounds, cachePages, compresses, isZero) => {
        const { source, target, encoder, decoder } = pair({
          cacheBytes: cachePages * PAGE_SIZE_BYTES,
          destinationIsZero: isZero,
        });
        if (!isZero) target.bytes.fill(0x5a);
        let dirty = isZero ? new PageBitmap(PAGES) : fullBitmap();
        for (const changes of rounds) {
          for (const one of changes) {
            apply(source, one);
            dirty.set(one.page);
          }
          for (const batch of encoder.encode(dirty.ranges(), source)) {
            const compressed = compresses ? await compressBatch(batch) : undefined;
            decoder.apply(Buffer.concat(encodeBatch(batch, compressed)));
            encoder.recycle(batch);
          }
          t.true(target.bytes.equals(source.bytes));
          dirty = new PageBitmap(PAGES);
          dirty.set(0, changes.length);
        }
        for (const key of ['zero', 'raw', 'delta', 'same'] as const)
          seen[key] += encoder.stats[key];
      },
    ),
    { numRuns: 150 },
  );
  for (const [kind, count] of Object.entries(seen)) t.true(count > 0, `No page was ${kind}`);
});

test('ranges in any order arrive, as a postcopy sends them', (t) => {
  const { source, target, encoder, decoder } = pair();
  const prng = new Prng(7);
  for (let page = 0; page < PAGES; page += 3) fillHeap(source.page(page), prng);
  const order = Array.from({ length: PAGES }, (_, page) => page).sort(() => prng.nextFloat() - 0.5);
  const ranges = order.map((page) => ({ offset: page * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES }));
  for (const batch of encoder.encode(ranges, source)) {
    decoder.apply(Buffer.concat(encodeBatch(batch)));
  }
  t.true(target.bytes.equals(source.bytes));
});

test('only the pages that are asked for are written, whatever a batch has', (t) => {
  fc.assert(
    fc.property(
      fc.array(change, { maxLength: 80 }),
      fc.array(fc.nat(PAGES - 1)),
      (changes, wanted) => {
        const { source, target, encoder, decoder } = pair({ destinationIsZero: false });
        for (const one of changes) apply(source, one);
        target.bytes.fill(0x77);
        const only = new PageBitmap(PAGES);
        for (const page of wanted) only.set(page);
        let written = 0;
        for (const batch of encoder.encode(fullBitmap().ranges(), source)) {
          written += decoder.apply(Buffer.concat(encodeBatch(batch)), only).written;
        }
        t.is(written, only.count);
        for (let page = 0; page < PAGES; page++) {
          const expected = only.has(page) ? source.page(page) : Buffer.alloc(PAGE_SIZE_BYTES, 0x77);
          t.true(target.page(page).equals(expected));
        }
      },
    ),
    { numRuns: 30 },
  );
});

test('a delta over another base than the source believes in is refused', (t) => {
  const { source, target, encoder, decoder } = pair();
  const all = [{ offset: 0, length: 10 * PAGE_SIZE_BYTES }];
  const prng = new Prng(3);
  let bytes = Buffer.alloc(0);
  for (let round = 0; round < 3; round++) {
    for (let page = 0; page < 10; page++) {
      if (round === 0) fillRandom(source.page(page), prng);
      else source.page(page).writeUInt32LE(prng.nextUint32(), 400);
    }
    const batches = [...encoder.encode(all, source)];
    t.is(batches.length, 1);
    for (const batch of batches) bytes = Buffer.concat(encodeBatch(batch));
    if (round < 2) decoder.apply(bytes);
  }
  t.is(encoder.stats.delta, 10);
  const before = Buffer.from(target.bytes);
  target.page(9).writeUInt8(before.readUInt8(9 * PAGE_SIZE_BYTES + 4000) ^ 1, 4000);
  const broken = Buffer.from(target.bytes);
  t.throws(() => decoder.apply(bytes), { instanceOf: ProtocolError, message: /delta of page 9/ });
  t.true(target.bytes.equals(broken), 'Pages before the refused one were written');
  before.copy(target.bytes);
  decoder.apply(bytes);
  t.true(target.bytes.equals(source.bytes));
});

test('a forgetful encoder sends a new destination everything', (t) => {
  const { source, encoder } = pair({ cacheBytes: PAGES * PAGE_SIZE_BYTES });
  const prng = new Prng(5);
  for (let page = 0; page < 100; page++) fillHeap(source.page(page), prng);
  for (let round = 0; round < 3; round++) {
    t.is([...encoder.encode(fullBitmap().ranges(), source)].length > 0, round < 2);
  }
  encoder.forget();
  const other = new PageRam(PAGES);
  other.bytes.fill(0xee);
  const decoder = new PageDecoder(PAGES, other);
  for (const batch of encoder.encode(fullBitmap().ranges(), source)) {
    decoder.apply(Buffer.concat(encodeBatch(batch)));
  }
  t.true(other.bytes.equals(source.bytes));
});

const FUZZED = Number(process.env['COLO_FUZZ_BATCHES'] ?? 20_000);

test(`none of ${FUZZED} mutated batches writes anything`, async (t) => {
  const { source, target, encoder, decoder } = pair();
  const prng = new Prng(Number(process.env['COLO_FUZZ_SEED'] ?? 11));
  const subjects = await mixedBatches(source, encoder, decoder, prng);
  t.true(subjects.length >= 4);
  const before = Buffer.from(target.bytes);
  target.writes = 0;
  for (let n = 0; n < FUZZED; n++) {
    const original = prng.pick(subjects);
    const mutated = mutate(original, prng);
    if (mutated.equals(original)) continue;
    t.throws(() => decoder.apply(mutated), { instanceOf: ProtocolError });
    if (target.writes > 0) break;
  }
  t.is(target.writes, 0);
  t.true(target.bytes.equals(before));
});

test('with a right checksum a hostile batch is refused whole, or all of it is within RAM', async (t) => {
  const { source, target, encoder, decoder } = pair();
  const prng = new Prng(Number(process.env['COLO_FUZZ_SEED'] ?? 12));
  const subjects = await mixedBatches(source, encoder, decoder, prng);
  let accepted = 0;
  let refused = 0;
  for (let n = 0; n < FUZZED / 4; n++) {
    const mutated = mutate(prng.pick(subjects), prng);
    if (mutated.length < 28) continue;
    const rest = crc32c(mutated.subarray(28), crc32c(mutated.subarray(0, 24)));
    mutated.writeUInt32BE(rest, 24);
    target.writes = 0;
    try {
      // PageRam throws a RangeError for what is outside of it.
      decoder.apply(mutated);
      accepted += 1;
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      refused += 1;
      t.is(target.writes, 0);
    }
  }
  t.true(accepted > 0 && refused > 0, `${accepted} accepted, ${refused} refused`);
});

/** Batches of every kind that fit the destination as it is now. */
async function mixedBatches(
  source: PageRam,
  encoder: PageEncoder,
  decoder: PageDecoder,
  prng: Prng,
): Promise<Buffer[]> {
  for (let page = 0; page < 60; page++) fillHeap(source.page(page), prng);
  const all = [{ offset: 0, length: 60 * PAGE_SIZE_BYTES }];
  for (let round = 0; round < 2; round++) {
    for (let page = 0; page < 60; page++) source.page(page).writeUInt32LE(prng.nextUint32(), 0);
    for (const batch of encoder.encode(all, source)) {
      decoder.apply(Buffer.concat(encodeBatch(batch)));
    }
  }
  for (let page = 0; page < 60; page++) {
    if (page % 3 === 0) source.page(page).fill(0);
    else if (page % 3 === 1) fillHeap(source.page(page), prng);
    else source.page(page).writeUInt32LE(prng.nextUint32(), 64);
  }
  const encoded: Buffer[] = [];
  for (const batch of [...encoder.encode(all, source)]) {
    const kinds = new Set(batch.runs.map((run) => run.kind));
    if (kinds.size !== 3) throw new Error('The batch is not mixed');
    encoded.push(Buffer.concat(encodeBatch(batch)));
    encoded.push(Buffer.concat(encodeBatch(batch, await compressBatch(batch))));
  }
  const runs = [{ first: 3, count: 200, kind: 'zero' as const }];
  encoded.push(Buffer.concat(encodeBatch({ runs, pages: 200, data: Buffer.alloc(0) })));
  const data = Buffer.from(source.page(1));
  const single = [{ first: 7, count: 1, kind: 'raw' as const }];
  encoded.push(Buffer.concat(encodeBatch({ runs: single, pages: 1, data })));
  return encoded;
}

function mutate(original: Buffer, prng: Prng): Buffer {
  const kind = prng.nextInt(0, 9);
  if (kind === 0) return original.subarray(0, prng.nextInt(0, original.length - 1));
  if (kind === 1) return Buffer.concat([original, Buffer.from([prng.nextInt(0, 255)])]);
  const mutated = Buffer.from(original);
  // The header and the table are a small part of the bytes, and the part that decides.
  const end = kind < 6 ? Math.min(200, original.length) : original.length;
  for (let n = prng.nextInt(1, 3); n > 0; n--) {
    const at = prng.nextInt(0, end - 1);
    mutated[at] = (mutated[at] as number) ^ (1 << prng.nextInt(0, 7));
  }
  return mutated;
}

function fullBitmap(): PageBitmap {
  const bitmap = new PageBitmap(PAGES);
  bitmap.set(0, PAGES);
  return bitmap;
}
