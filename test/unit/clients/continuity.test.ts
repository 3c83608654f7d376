import test from 'ava';
import { Continuity } from '../../../scripts/clients/continuity.js';

function track(startUs: number, successesUs: readonly number[], tellAboveUs = 1e9): Continuity {
  const continuity = new Continuity(tellAboveUs);
  continuity.start(startUs);
  for (const atUs of successesUs) continuity.success(atUs);
  return continuity;
}

test('the outage is the longest time between two successive successes', (t) => {
  const report = track(0, [100, 200, 950, 1000]).finish(1100);
  t.deepEqual(report, { successes: 4, longest: { fromUs: 200, toUs: 950 } });
});

test('the time up to the first success is no outage', (t) => {
  t.deepEqual(track(0, [5000, 5100]).finish(5150).longest, { fromUs: 5000, toUs: 5100 });
});

test('gaps of the warm-up do not count, the one that is open at its end counts from there', (t) => {
  const continuity = track(0, [100, 900]);
  continuity.restart(1000);
  continuity.success(1150);
  t.deepEqual(continuity.finish(1200).longest, { fromUs: 1000, toUs: 1150 });
});

test('a service that does not answer after the warm-up is away since its end', (t) => {
  const continuity = track(0, [100]);
  continuity.restart(1000);
  t.deepEqual(continuity.finish(1200).longest, { fromUs: 1000, toUs: 1200 });
});

test('a service that never comes back is away until the load ends', (t) => {
  t.deepEqual(track(0, [100, 200]).finish(9000).longest, { fromUs: 200, toUs: 9000 });
});

test('a service that never answers is away for the whole load', (t) => {
  t.deepEqual(track(50, []).finish(9000), { successes: 0, longest: { fromUs: 50, toUs: 9000 } });
});

test('a load without length has no outage', (t) => {
  t.deepEqual(track(50, []).finish(50), { successes: 0, longest: undefined });
});

test('only gaps above the threshold are told, when they end', (t) => {
  const continuity = new Continuity(300);
  t.is(continuity.success(1000), undefined);
  t.is(continuity.success(1300), undefined);
  t.deepEqual(continuity.success(1601), { fromUs: 1300, toUs: 1601 });
});
