import test from 'ava';
import { DEFAULT_PERIOD_US, type Mode, type PeriodSetting } from '../../../src/config/index.js';
import { CheckpointPace } from '../../../src/primary/checkpoint-pace.js';
import { ADAPTIVE_PERIOD_US_MAX } from '../../../src/primary/limits.js';

function pace(mode: Mode, period: PeriodSetting | undefined) {
  return new CheckpointPace({ mode, period, minIntervalUs: 100_000 });
}

test('without a setting the period is what is usual for the mode', (t) => {
  const usual = pace('checkpoint', undefined);
  t.is(usual.periodUs, DEFAULT_PERIOD_US.checkpoint);
  usual.mode = 'colo';
  t.is(usual.periodUs, DEFAULT_PERIOD_US.colo);
});

test('a setting holds in both modes, but never below the least interval', (t) => {
  const set = pace('checkpoint', 300_000);
  set.mode = 'colo';
  t.is(set.periodUs, 300_000);
  set.setting = 10_000;
  t.is(set.periodUs, 100_000);
});

test('auto shortens while the guests diverge, down to the least interval', (t) => {
  const auto = pace('colo', 'auto');
  auto.checkpointed(true);
  t.is(auto.periodUs, DEFAULT_PERIOD_US.colo / 2);
  for (let i = 0; i < 20; i++) auto.checkpointed(true);
  t.is(auto.periodUs, 100_000);
});

test('auto lengthens while they agree, up to its bound', (t) => {
  const auto = pace('colo', 'auto');
  auto.checkpointed(false);
  t.is(auto.periodUs, DEFAULT_PERIOD_US.colo * 1.5);
  for (let i = 0; i < 20; i++) auto.checkpointed(false);
  t.is(auto.periodUs, ADAPTIVE_PERIOD_US_MAX);
});

test('auto has nothing to go by in mode checkpoint', (t) => {
  const auto = pace('checkpoint', 'auto');
  auto.checkpointed(true);
  t.is(auto.periodUs, DEFAULT_PERIOD_US.checkpoint);
});
