import test from 'ava';
import { standingOf } from '../../../../src/blockrep/index.js';

test('the records of a guest say who had it last', (t) => {
  const active = (peered: boolean) => ({ state: 'active', peered }) as const;
  const standby = { state: 'standby', peered: false } as const;
  t.is(standingOf([]), 'none');
  t.is(standingOf([active(false)]), 'leading');
  t.is(standingOf([active(true)]), 'shared');
  t.is(standingOf([active(true), active(false)]), 'leading');
  t.is(standingOf([standby, standby]), 'following');
  t.is(standingOf([standby, active(true)]), 'shared');
  t.is(standingOf([{ state: 'syncing', peered: false }]), 'following');
  t.is(standingOf([{ state: 'discarded', peered: true }]), 'none');
});
