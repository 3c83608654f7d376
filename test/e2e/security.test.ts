/** A pair with certificates as docs/security.md makes them: what its operator sees of them. */
import test from 'ava';
import { REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import { withPair } from './pair-harness.js';

test('a pair with certificates is protected, and tells whose they are', async (t) => {
  await withPair(t, { security: 'tls' }, async (pair) => {
    for (const host of ['hosta', 'hostb'] as const) {
      const { security } = await pair.status(host);
      t.like(security, { transport: 'tls' });
      t.deepEqual(security?.certificate?.names, [host, REPLICATION_ADDRESS[host]]);
      t.true((security?.certificate?.daysLeft ?? 0) > 700);
    }
  });
});
