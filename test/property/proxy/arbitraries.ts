/** What the property tests of the proxy draw from. */
import fc from 'fast-check';
import { encodeBatch, forEachFrame } from '../../../src/proxy/index.js';

export const frameArbitrary: fc.Arbitrary<Buffer> = fc
  .uint8Array({ minLength: 24, maxLength: 200 })
  .map((bytes) => Buffer.from(bytes));

export const batchArbitrary: fc.Arbitrary<Buffer> = fc
  .array(frameArbitrary, { minLength: 1, maxLength: 4 })
  .map(encodeBatch);

/** Lengths that look like ours now and then, so that random bytes get past the first check. */
export const hostileBytesArbitrary: fc.Arbitrary<Buffer> = fc
  .array(
    fc.oneof(
      fc.uint8Array({ maxLength: 40 }),
      fc.integer({ min: 0, max: 70_000 }).map((length) => {
        const bytes = Buffer.alloc(4);
        bytes.writeUInt32BE(length, 0);
        return bytes;
      }),
      batchArbitrary,
    ),
    { maxLength: 8 },
  )
  .map((parts) => Buffer.concat(parts));

export function framesOf(batches: readonly Buffer[]): string[] {
  const frames: string[] = [];
  for (const batch of batches) forEachFrame(batch, (frame) => frames.push(frame.toString('hex')));
  return frames;
}
