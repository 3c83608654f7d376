/** The messages of a resynchronisation: round trip, cuts, and bytes from anybody. */
import test from 'ava';
import fc from 'fast-check';
import {
  decodeResyncMessage,
  encodeResyncMessage,
  type ResyncMessage,
} from '../../../src/blockrep/index.js';
import { ProtocolError } from '../../../src/lib/index.js';

const u32 = fc.nat(2 ** 32 - 1);
const disk = fc.nat(63);

/** Gaps and lengths, so that the runs ascend. */
const runs = fc
  .array(fc.tuple(fc.nat(2 ** 20), fc.integer({ min: 1, max: 8 })), { minLength: 1, maxLength: 20 })
  .map((steps) => {
    let at = 0;
    return steps.map(([gap, count]) => {
      const first = at + gap;
      at = first + count;
      return { first, count };
    });
  });

const message: fc.Arbitrary<ResyncMessage> = fc.oneof(
  fc.record({
    kind: fc.constant('changed' as const),
    disk,
    last: fc.boolean(),
    trusted: fc.boolean(),
    runs: fc.oneof(runs, fc.constant([])),
  }),
  fc.record({
    kind: fc.constant('digestRequest' as const),
    disk,
    request: u32,
    epoch: fc.maxSafeNat(),
    runs,
  }),
  fc.record({
    kind: fc.constant('digests' as const),
    disk,
    request: u32,
    pieces: runs.chain((all) =>
      fc.tuple(
        ...all.map((run) =>
          fc.boolean().map((zero) => ({
            ...run,
            digests: zero ? undefined : Buffer.alloc(16 * run.count, run.first),
          })),
        ),
      ),
    ),
  }),
);

test('a message is decoded as it was encoded', (t) => {
  fc.assert(
    fc.property(message, (original) => {
      const { type, parts } = encodeResyncMessage(original);
      t.deepEqual(decodeResyncMessage(type, Buffer.concat(parts)), original);
    }),
  );
});

test('bytes that were changed or cut are refused, or are another proper message', (t) => {
  const damage = fc.record({ at: fc.nat(), value: fc.nat(255), cut: fc.nat() });
  let refusals = 0;
  fc.assert(
    fc.property(message, damage, ({ ...original }, { at, value, cut }) => {
      const { type, parts } = encodeResyncMessage(original);
      const payload = Buffer.concat(parts);
      payload[at % payload.length] = value;
      const bytes = payload.subarray(0, payload.length - (cut % 4 === 0 ? cut % 17 : 0));
      refusals += checkBytes(t.deepEqual.bind(t), type, bytes);
    }),
    { numRuns: 400 },
  );
  t.true(refusals > 20);
});

test('random bytes are refused, or are a proper message', (t) => {
  let refusals = 0;
  const type = fc.integer({ min: 0x0135, max: 0x0139 });
  fc.assert(
    fc.property(type, fc.uint8Array({ maxLength: 200 }), (each, bytes) => {
      refusals += checkBytes(t.deepEqual.bind(t), each, Buffer.from(bytes));
    }),
    { numRuns: 500 },
  );
  t.true(refusals > 20);
});

/** 1 when they were refused; else they must mean exactly what they say. */
function checkBytes(
  equal: (a: unknown, b: unknown) => boolean,
  type: number,
  bytes: Buffer,
): number {
  let decoded: ResyncMessage;
  try {
    decoded = decodeResyncMessage(type, bytes);
  } catch (error) {
    if (error instanceof ProtocolError) return 1;
    throw error;
  }
  const again = encodeResyncMessage(decoded);
  equal([again.type, Buffer.concat(again.parts)], [type, bytes]);
  return 0;
}
