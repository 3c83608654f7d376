import test from 'ava';
import { parseOptions } from '../../../scripts/demo-run/options.js';
import { OperatorError } from '../../../src/lib/index.js';

test('without arguments the primary is killed in the middle of 20 s', (t) => {
  t.like(parseOptions([]), {
    fault: 'kill-primary',
    durationMs: 20_000,
    mode: 'colo',
    periodMs: 1000,
    repeat: 1,
  });
});

test('durations and periods may carry their unit', (t) => {
  const options = parseOptions(['--duration', '7s', '--period=150ms', '--fault', 'none']);
  t.like(options, { durationMs: 7000, periodMs: 150, fault: 'none' });
});

test('mode colo has its own period and asks for randomness less often', (t) => {
  t.like(parseOptions(['--mode', 'colo']), { mode: 'colo', periodMs: 1000, randomMs: 2000 });
  t.like(parseOptions(['--mode', 'checkpoint']), { mode: 'checkpoint', periodMs: 100 });
  const chosen = parseOptions(['--mode', 'colo', '--period', '300', '--random', '50']);
  t.like(chosen, { periodMs: 300, randomMs: 50 });
});

for (const args of [
  ['--fault', 'unplug'],
  ['--duration', '1'],
  ['--duration', '2m'],
  ['--period', '5'],
  ['--repeat', '0'],
  ['--mode', ''],
  ['--random', '1'],
  ['--unknown'],
  ['stray'],
]) {
  test(`refused with what was found: ${args.join(' ')}`, (t) => {
    const error = t.throws(() => parseOptions(args), { instanceOf: OperatorError });
    t.true(error?.message.includes(args[args.length - 1] as string));
  });
}
