import test from 'ava';
import { standingOf } from '../../../../src/blockrep/index.js';

test('the records of a guest say who had it last', (t) => {
  const active = (epoch: number) => ({ state: 'active', epoch }) as const;
  const standby = { state: 'standby', epoch: 7 } as const;
  t.is(standingOf([]), 'none');
  t.is(standingOf([active(0)]), 'leading');
  t.is(standingOf([active(5)]), 'shared');
  t.is(standingOf([active(5), active(0)]), 'leading');
  t.is(standingOf([standby, standby]), 'following');
  t.is(standingOf([standby, active(3)]), 'shared');
  t.is(standingOf([{ state: 'syncing', epoch: 3 }]), 'none');
  t.is(standingOf([{ state: 'discarded', epoch: 0 }]), 'none');
});
