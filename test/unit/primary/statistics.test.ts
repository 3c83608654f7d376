import test from 'ava';
import { CheckpointStatistics } from '../../../src/primary/statistics.js';

test('quantiles are over the checkpoints that are not part of a synchronisation', (t) => {
  const statistics = new CheckpointStatistics();
  t.is(statistics.pauseQuantileUs(0.5), undefined);
  statistics.add({ trigger: 'sync', pauseUs: 1_000_000, pages: 9, pagesInPause: 9 });
  for (let pauseUs = 1; pauseUs <= 100; pauseUs++) {
    statistics.add({ trigger: 'period', pauseUs, pages: 1, pagesInPause: 0 });
  }
  t.is(statistics.pauseQuantileUs(0.5), 51);
  t.is(statistics.pauseQuantileUs(0.99), 100);
  t.deepEqual(statistics.byTrigger, { sync: 1, period: 100 });
  t.is(statistics.total, 101);
});

test('old figures make room for new ones', (t) => {
  const statistics = new CheckpointStatistics();
  for (let i = 0; i < 5000; i++) {
    statistics.add({ trigger: 'period', pauseUs: i, pages: 0, pagesInPause: 0 });
  }
  t.true((statistics.pauseQuantileUs(0) ?? 0) >= 900);
});
