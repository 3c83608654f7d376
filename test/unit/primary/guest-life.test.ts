import test from 'ava';
import type { EventBody, GuestPanicAction } from '../../../src/config/index.js';
import type { GuestEvent } from '../../../src/emulator/index.js';
import { GuestLife } from '../../../src/primary/guest-life-shell.js';
import { FakeEmulator } from '../../support/fake-emulator.js';
import { CollectingLog } from '../../support/fake-node.js';

const PANIC: GuestEvent = { kind: 'panic' };

/** A guest's life, and what came of it in a few words. */
function life(policy: GuestPanicAction) {
  const guest = new FakeEmulator({ pages: 4, seed: 1, startPaused: false, ramMapping: 'shared' });
  const told: string[] = [];
  const works: (() => Promise<void>)[] = [];
  const watched = new GuestLife({
    ...{ guest, policy, log: new CollectingLog() },
    watch: {
      stepped: () => undefined,
      happened: (event: EventBody) => {
        told.push(event.kind === 'guest' ? event.what : event.kind);
      },
    },
    onEnded: (goodbye, reason) => told.push(`${goodbye}: ${reason}`),
    between: (work) => works.push(work),
  });
  guest.onGuestEvent((event) => watched.on(event));
  return { guest, told, works };
}

test('a guest that reboots is told of, and that is all', (t) => {
  const { guest, told, works } = life('reset');
  guest.emit({ kind: 'reset', byGuest: true, reason: 'guest-reset' });
  guest.emit({ kind: 'watchdog', action: 'reset' });
  t.deepEqual(told, ['reset', 'watchdog']);
  t.is(works.length, 0);
});

test('a guest that powers off on purpose is off; one that QEMU ended lives on elsewhere', (t) => {
  const { guest, told } = life('reset');
  guest.emit({ kind: 'shutdown', byGuest: true, reason: 'guest-shutdown' });
  guest.emit({ kind: 'shutdown', byGuest: false, reason: 'host-signal' });
  t.deepEqual(told, [
    ...['shutdown', 'guest-off: The guest powered off'],
    ...['shutdown', 'handover: QEMU shut down (host-signal)'],
  ]);
});

test('a guest that panics is reset, between two captures', async (t) => {
  const { guest, told, works } = life('reset');
  guest.emit(PANIC);
  t.deepEqual(told, ['panic']);
  for (const work of works) await work();
  t.deepEqual(told, ['panic', 'reset']);
});

test('a reset that fails is no end: the death of QEMU is told by itself', async (t) => {
  const { guest, told, works } = life('reset');
  guest.emit(PANIC);
  guest.crash('Killed');
  for (const work of works) await t.notThrowsAsync(work());
  t.deepEqual(told, ['panic']);
});

test('by the other policies a guest that panics is off, or left to itself', (t) => {
  const off = life('poweroff');
  off.guest.emit(PANIC);
  const ended = 'guest-off: The guest panicked (on-guest-panic = poweroff)';
  t.deepEqual(off.told, ['panic', ended]);
  const left = life('none');
  left.guest.emit(PANIC);
  t.deepEqual([left.told, left.works.length], [['panic'], 0]);
});
