import test from 'ava';
import { crc32c, joinCrc32c, Prng, restCrc32c } from '../../../src/lib/index.js';

test('the checksum of a whole from its parts, and of the rest from the whole', (t) => {
  const prng = new Prng(7);
  const lengths = [0, 1, 2, 3, 12, 31, 32, 255, 4096, 65_537, 524_288];
  for (const aBytes of lengths) {
    for (const bBytes of lengths) {
      const bytes = Buffer.from(Array.from({ length: 64 }, () => prng.nextInt(0, 255)));
      const whole = Buffer.alloc(aBytes + bBytes, bytes);
      const a = crc32c(whole.subarray(0, aBytes));
      const b = crc32c(whole.subarray(aBytes));
      t.is(joinCrc32c(a, b as number, bBytes), crc32c(whole));
      t.is(restCrc32c(crc32c(whole), a, bBytes), b);
    }
  }
});

test('a part of a length that no frame has is a bug', (t) => {
  for (const bytes of [-1, 0.5, 2 ** 32, Number.NaN]) t.throws(() => joinCrc32c(1, 2, bytes));
});
