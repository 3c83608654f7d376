import test from 'ava';
import fc from 'fast-check';
import { Histogram } from '../../../src/lib/index.js';

test('an empty histogram answers zero', (t) => {
  const histogram = new Histogram();
  t.is(histogram.quantile(0.5), 0);
  t.is(histogram.max, 0);
});

test('small values are exact', (t) => {
  const histogram = new Histogram();
  for (let value = 1; value <= 100; value++) histogram.add(value);
  t.is(histogram.quantile(0.5), 50);
  t.is(histogram.quantile(0.99), 99);
  t.is(histogram.quantile(1), 100);
});

test('negative, fractional and huge values are kept within the range', (t) => {
  const histogram = new Histogram();
  for (const value of [-5, 0.4, 2 ** 50]) histogram.add(value);
  t.is(histogram.count, 3);
  t.is(histogram.quantile(0.5), 0);
  t.is(histogram.quantile(1), 2 ** 40);
});

test('a quantile is at most 1.6 % below the sorted list and never above it', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 2 ** 31 }), { minLength: 1, maxLength: 200 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (values, q) => {
        const histogram = new Histogram();
        for (const value of values) histogram.add(value);
        const sorted = values.slice().sort((a, b) => a - b);
        const exact = sorted[Math.max(1, Math.ceil(q * sorted.length)) - 1] as number;
        const found = histogram.quantile(q);
        return found <= exact && found >= exact * 0.984;
      },
    ),
  );
  t.pass();
});
