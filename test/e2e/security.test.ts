/** A pair with certificates as docs/security.md makes them: it works as one without. */
import test from 'ava';
import { CLIENT_NAMES } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import { assertNothingLost, startClients, withPair } from './pair-harness.js';

const NAMES = CLIENT_NAMES;

test('a pair with certificates is protected, tells whose they are, and fails over', async (t) => {
  await withPair(t, { security: 'tls', mode: 'colo', periodMs: 1000 }, async (pair) => {
    for (const host of ['hosta', 'hostb'] as const) {
      const { security } = await pair.status(host);
      t.like(security, { transport: 'tls' });
      t.deepEqual(security?.certificate?.names, [host, REPLICATION_ADDRESS[host]]);
      t.true((security?.certificate?.daysLeft ?? 0) > 700);
      t.is(security?.peerCertificate?.names[0], host === 'hosta' ? 'hostb' : 'hosta');
    }
    const clients = await startClients(pair, { clients: NAMES });
    await clients.waitSuccesses({ names: NAMES, afterUs: 0, count: 5 });
    const atUs = await pair.kill('hosta');
    await pair.waitStatus('hostb', 'it took over', ({ role }) => role === 'primary');
    await clients.waitSuccesses({ names: NAMES, afterUs: atUs, count: 5 });
    await pair.restart('hosta');
    await pair.waitProtected(undefined, 'hostb');
    await clients.waitSuccesses({ names: NAMES, afterUs: nowUs(), count: 5 });
    assertNothingLost(t, await clients.stop());
  });
});
