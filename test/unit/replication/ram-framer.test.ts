import test from 'ava';
import fc from 'fast-check';
import { crc32c, PAGE_SIZE_BYTES } from '../../../src/lib/index.js';
import { decodeRam, RamDigest, RamFramer } from '../../../src/replication/index.js';

const PAGES = 600;

test('frames carry exactly the pages of the ranges, zero pages by flag, in any mixture', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.boolean(), { minLength: PAGES, maxLength: PAGES }),
      fc.uniqueArray(fc.integer({ min: 0, max: PAGES - 1 }), { maxLength: PAGES }),
      (zeros, dirty) => {
        const ram = Buffer.alloc(PAGES * PAGE_SIZE_BYTES);
        zeros.forEach((zero, page) => {
          if (!zero)
            ram.fill(1 + (page % 255), page * PAGE_SIZE_BYTES + 8, (page + 1) * PAGE_SIZE_BYTES);
        });
        const copy = Buffer.alloc(ram.length, 0xee);
        const framer = new RamFramer(7);
        const ranges = [...dirty]
          .sort((a, b) => a - b)
          .map((page) => ({ offset: page * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES }));
        const digest = new RamDigest();
        for (const frame of framer.cut(ranges, (at, target) => ram.copy(target, 0, at))) {
          const { type, parts } = framer.encode(frame);
          const payload = Buffer.concat(parts);
          digest.add(crc32c(payload));
          const message = decodeRam(type, payload, ram.length);
          if (message.kind !== 'ramPages') throw new Error(message.kind);
          for (const run of message.runs) {
            if (run.data === undefined) copy.fill(0, run.offset, run.offset + run.length);
            else run.data.copy(copy, run.offset);
          }
        }
        const touched = new Set(dirty);
        for (let page = 0; page < PAGES; page++) {
          const [from, to] = [page * PAGE_SIZE_BYTES, (page + 1) * PAGE_SIZE_BYTES];
          const want = touched.has(page)
            ? ram.subarray(from, to)
            : Buffer.alloc(PAGE_SIZE_BYTES, 0xee);
          if (copy.compare(want, 0, PAGE_SIZE_BYTES, from, to) !== 0)
            throw new Error(`page ${page}`);
        }
        return framer.totals.pages === dirty.length && framer.totals.digest === digest.value;
      },
    ),
    { numRuns: 20 },
  );
  t.pass();
});

test('a range larger than a frame is cut into several', (t) => {
  const framer = new RamFramer(1);
  const ranges = [{ offset: 0, length: 3 << 20 }];
  const frames = [...framer.cut(ranges, (_at, target) => target.fill(1))];
  t.is(frames.length, 6);
  t.is(
    frames.reduce((sum, frame) => sum + frame.pages, 0),
    768,
  );
});

test('a lost, doubled or swapped frame changes the digest', (t) => {
  const digestOf = (crcs: number[]) => {
    const digest = new RamDigest();
    for (const crc of crcs) digest.add(crc);
    return digest.value;
  };
  const all = [digestOf([1, 2]), digestOf([1]), digestOf([1, 1, 2]), digestOf([2, 1])];
  t.is(new Set(all).size, 4);
});
