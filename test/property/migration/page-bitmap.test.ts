import test from 'ava';
import fc from 'fast-check';
import { Prng, ProtocolError } from '../../../src/lib/index.js';
import { BitmapAssembler, encodeBitmap, PageBitmap } from '../../../src/migration/index.js';

const operation = fc.record({
  value: fc.boolean(),
  first: fc.nat(500),
  count: fc.oneof(fc.nat(5), fc.nat(500)),
});

function build(pages: number, operations: { value: boolean; first: number; count: number }[]) {
  const bitmap = new PageBitmap(pages);
  const model = new Array<boolean>(pages).fill(false);
  for (const { value, first, count } of operations) {
    if (first > pages) continue;
    const fits = Math.min(count, pages - first);
    if (value) bitmap.set(first, fits);
    else bitmap.clear(first, fits);
    model.fill(value, first, first + fits);
  }
  return { bitmap, model };
}

test('a bitmap of pages agrees with an array of booleans', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 600 }), fc.array(operation), (pages, operations) => {
      const { bitmap, model } = build(pages, operations);
      const set = model.flatMap((value, page) => (value ? [page] : []));
      t.is(bitmap.count, set.length);
      t.deepEqual(pagesOf(bitmap.runs()), set);
      t.is(bitmap.next(), set[0]);
      const [from, to] = [Math.floor(pages / 3), Math.ceil((2 * pages) / 3)];
      const inside = set.filter((page) => page >= from && page < to);
      t.deepEqual(pagesOf(bitmap.runs(from, to)), inside);
      t.is(bitmap.countIn(from, to - from), inside.length);
      t.is(
        bitmap.next(from),
        set.find((page) => page >= from),
      );
      for (const [page, value] of model.entries()) t.is(bitmap.has(page), value);
      t.true(bitmap.clone().equals(bitmap));
      // Runs are joined as far as they go.
      const runs = [...bitmap.runs()];
      for (const [n, run] of runs.entries()) {
        t.true(n === 0 || run.first > (runs[n - 1]?.first ?? 0) + (runs[n - 1]?.count ?? 0));
      }
    }),
    { numRuns: 200 },
  );
});

test('a bitmap survives the wire; each cut and each flipped bit of it is refused', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 600 }), fc.array(operation), (pages, operations) => {
      const { bitmap } = build(pages, operations);
      const parts = [...encodeBitmap(bitmap)];
      t.true(decode(pages, parts)?.equals(bitmap));
      const part = parts[0] as Buffer;
      t.true(part.length <= 32 + Math.ceil(pages / 8));
      for (let length = 0; length < part.length; length++) {
        t.throws(() => decode(pages, [part.subarray(0, length)]), { instanceOf: ProtocolError });
      }
      for (let at = 0; at < part.length; at++) {
        const flipped = Buffer.from(part);
        flipped[at] = (flipped[at] as number) ^ (1 << (at % 8));
        t.throws(() => decode(pages, [flipped]), { instanceOf: ProtocolError });
      }
    }),
    { numRuns: 40 },
  );
});

test('a large bitmap comes in bounded parts, and only whole and in order', (t) => {
  const pages = 2 ** 21 + 77;
  const bitmap = new PageBitmap(pages);
  const prng = new Prng(1);
  for (let n = 0; n < 200_000; n++) bitmap.set(prng.nextInt(0, 2 ** 20));
  bitmap.set(2 ** 21 - 10, 87);
  const parts = [...encodeBitmap(bitmap)];
  t.is(parts.length, 3);
  for (const part of parts) t.true(part.length <= 32 + 2 ** 17);
  t.true((parts[2] as Buffer).length < 40);
  t.true(decode(pages, parts)?.equals(bitmap));
  t.is(decode(pages, parts.slice(0, 2)), undefined);
  t.throws(() => decode(pages, parts.slice(1)), { instanceOf: ProtocolError });
  t.throws(() => decode(pages, [...parts, parts[2] as Buffer]), { instanceOf: ProtocolError });
  t.throws(() => decode(pages + 1, parts), { instanceOf: ProtocolError });
});

test('random bytes are never a bitmap, and never a crash', (t) => {
  const head = Buffer.from('43504254010000000000025800000000', 'hex');
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), fc.boolean(), (bytes, framed) => {
      const part = Buffer.from(bytes);
      if (framed) head.copy(part);
      t.throws(() => decode(600, [part]), { instanceOf: ProtocolError });
    }),
  );
});

function decode(pages: number, parts: Buffer[]): PageBitmap | undefined {
  const assembler = new BitmapAssembler(pages);
  for (const part of parts) assembler.add(part);
  return assembler.finished;
}

function pagesOf(runs: Iterable<{ first: number; count: number }>): number[] {
  return [...runs].flatMap(({ first, count }) =>
    Array.from({ length: count }, (_, n) => first + n),
  );
}
