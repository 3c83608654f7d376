import test from 'ava';
import { QmpWatch } from '../../../src/emulator/qmp-watch.js';

const LIMIT = 500_000;
const TICK = 50_000;

/** What each tick said, from 0 on; `silentFrom`: nothing comes any more. */
function run(options: {
  silentFrom: number;
  untilUs: number;
  isStopped: boolean;
  stepUs?: number;
}) {
  const watch = new QmpWatch({ hungAfterUs: LIMIT });
  const said: (readonly [number, string])[] = [];
  let waiting = false;
  for (let nowUs = 0; nowUs <= options.untilUs; nowUs += options.stepUs ?? TICK) {
    const heard = waiting && nowUs < options.silentFrom;
    if (heard) waiting = false;
    const verdict = watch.tick({ nowUs, heard, waiting, isStopped: () => options.isStopped });
    if (verdict === 'ask') waiting = true;
    if (verdict !== undefined) said.push([nowUs, verdict]);
  }
  return said;
}

test('a QEMU that owes nothing is asked at each tick, and one that answers is not hung', (t) => {
  t.is(new QmpWatch({ hungAfterUs: LIMIT }).tickUs, TICK);
  const said = run({ silentFrom: Number.POSITIVE_INFINITY, untilUs: 10 * TICK, isStopped: true });
  t.deepEqual(new Set(said.map(([, verdict]) => verdict)), new Set(['ask']));
  t.is(said.length, 11);
});

test('one that was stopped is hung after the limit, and again as long as it is silent', (t) => {
  const said = run({ silentFrom: 0, untilUs: 2.4 * LIMIT, isStopped: true });
  t.deepEqual(said, [
    [0, 'ask'],
    [LIMIT, 'hung'],
    [2 * LIMIT, 'hung'],
  ]);
});

test('one that is only slow gets six times as long', (t) => {
  const said = run({ silentFrom: 0, untilUs: 7.2 * LIMIT, isStopped: false });
  t.deepEqual(said, [
    [0, 'ask'],
    [6 * LIMIT, 'hung'],
    [7 * LIMIT, 'hung'],
  ]);
});

test('whoever was stopped himself counts two ticks of it, no more', (t) => {
  const said = run({ silentFrom: 0, untilUs: 5 * LIMIT, isStopped: true, stepUs: LIMIT });
  t.deepEqual(said, [
    [0, 'ask'],
    [5 * LIMIT, 'hung'],
  ]);
});

test('any word ends the silence', (t) => {
  const watch = new QmpWatch({ hungAfterUs: LIMIT });
  const tick = (nowUs: number, heard: boolean) =>
    watch.tick({ nowUs, heard, waiting: true, isStopped: () => true });
  for (let nowUs = 0; nowUs < LIMIT; nowUs += TICK) t.is(tick(nowUs, false), undefined);
  t.is(watch.silentUs, LIMIT - TICK);
  t.is(tick(LIMIT, true), undefined);
  t.is(watch.silentUs, 0);
  t.is(tick(LIMIT + TICK, false), undefined);
});
