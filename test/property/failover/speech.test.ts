/**
 * Who may speak, through thousands of failures. A failure prints its seed; run one alone with
 * COLO_SPEECH_SEED=7, more of them with COLO_SPEECH_SEEDS=5000 (and ava's --timeout=30m).
 */
import test from 'ava';
import { MAIN_SILENCE_US_MAX } from '../../../src/failover/index.js';
import { runSeed, runSingle, type SingleFault } from './speech-faults.js';

const FIRST = Number(process.env['COLO_SPEECH_SEED'] ?? 1);
const COUNT = Number(
  process.env['COLO_SPEECH_SEEDS'] ?? (process.env['COLO_SPEECH_SEED'] === undefined ? 500 : 1),
);

test('never do two speak, nobody shows what is old, and a healed pair is in order again', (t) => {
  for (let seed = FIRST; seed < FIRST + COUNT; seed += 1) {
    try {
      runSeed(seed);
    } catch (error) {
      t.fail(`COLO_SPEECH_SEED=${seed}: ${(error as Error).stack}`);
      return;
    }
  }
  t.pass();
});

/** Who must speak in the end, and how long nobody may, beyond `promises` times the time-out. */
const SINGLE: readonly (readonly [SingleFault, string, { promises: number; us: number }])[] = [
  ['kill primary', 'b', { promises: 1.1, us: 150_000 }],
  ['kill secondary', 'a', { promises: 0, us: 0 }],
  ['stop primary', 'b', { promises: 1.6, us: 50_000 }],
  ['stop secondary', 'a', { promises: 0, us: 0 }],
  ['hang primary', 'b', { promises: 1.6, us: MAIN_SILENCE_US_MAX }],
  ['witness down', 'a', { promises: 0, us: 0 }],
  ['witness cut from primary', 'a', { promises: 0, us: 0 }],
  ['witness cut from secondary', 'a', { promises: 0, us: 0 }],
  ['link cut', 'a', { promises: 0, us: 0 }],
  ['link cut to secondary', 'a', { promises: 0, us: 0 }],
  ['link cut to primary', 'a', { promises: 0, us: 0 }],
];

for (const [fault, speaker, bound] of SINGLE) {
  test(`one fault alone, ${fault}: ${speaker} speaks, after a bounded silence`, (t) => {
    for (let seed = 1; seed <= 25; seed += 1) {
      const found = runSingle(seed, fault);
      const boundUs = bound.promises * found.options.promiseUs + bound.us;
      const ok = found.speaker === speaker && found.silenceUs <= boundUs;
      const told = `seed ${seed}: ${found.speaker} after ${found.silenceUs} of ${boundUs}`;
      t.true(ok, `${told}\n${ok ? '' : found.world.log.slice(-80).join('\n')}`);
    }
  });
}
