import test from 'ava';
import type { EventBody } from '../../../src/config/index.js';
import { SvmLife } from '../../../src/secondary/svm-life-shell.js';
import { FakeEmulator } from '../../support/fake-emulator.js';
import { CollectingLog } from '../../support/fake-node.js';

function svmLife() {
  const svm = new FakeEmulator({ pages: 4, seed: 1, startPaused: false, ramMapping: 'private' });
  const events: EventBody[] = [];
  const happened = (event: EventBody) => void events.push(event);
  const life = new SvmLife(new CollectingLog(), { stepped: () => undefined, happened });
  let resets = 0;
  svm.onGuestEvent((event) => {
    if (event.kind === 'reset') resets += 1;
    life.on(event);
  });
  return { svm, life, events, resets: () => resets };
}

const OFF = { kind: 'shutdown', byGuest: true, reason: 'guest-shutdown' } as const;
const PANIC = { kind: 'panic' } as const;

test('an SVM that is as its PVM takes over as it is', async (t) => {
  const { svm, life, resets } = svmLife();
  await life.promote(svm, 'reset');
  t.is(resets(), 0);
});

test('what the SVM did by itself is over with the next checkpoint', async (t) => {
  const { svm, life, resets } = svmLife();
  svm.emit(OFF);
  svm.emit(PANIC);
  life.beginApply();
  await life.promote(svm, 'reset');
  t.is(resets(), 0);
});

test('an SVM that is off or has panicked is reset when it has to take over', async (t) => {
  for (const [event, onPanic, count] of [
    [OFF, 'none', 1],
    [PANIC, 'reset', 1],
    [PANIC, 'poweroff', 1],
    [PANIC, 'none', 0],
  ] as const) {
    const { svm, life, events, resets } = svmLife();
    svm.emit(event);
    await life.promote(svm, onPanic);
    t.is(resets(), count);
    t.is(events.length, count);
  }
});
