/**
 * After a failover the survivor protects itself again as soon as the other host is back, while the
 * guest runs; and again, in the other direction. Clients that stay connected notice nothing.
 */
import test from 'ava';
import { CLIENT_NAMES } from '../../scripts/clients/client.js';
import type { HostName } from '../../scripts/harness/lab.js';
import { assertNothingLost, startClients, withPair } from './pair-harness.js';

/** More by hand: COLO_REJOIN_ROUNDS=20. */
const ROUNDS = Number(process.env['COLO_REJOIN_ROUNDS'] ?? 4);
const SUCCESSES_AFTER = 5;

test('roles alternate for as long as one host dies at a time', async (t) => {
  await withPair(t, { mode: 'colo', periodMs: 1000 }, async (pair) => {
    const clients = await startClients(pair, {
      clients: CLIENT_NAMES,
      args: ['--random-interval-ms', '500'],
    });
    await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: 0, count: SUCCESSES_AFTER });
    let [serving, other]: [HostName, HostName] = ['hosta', 'hostb'];
    for (let round = 1; round <= ROUNDS; round++) {
      const faultUs = await pair.kill(serving);
      [serving, other] = [other, serving];
      const { downtimeMs } = await pair.waitStatus(serving, `round ${round}: it took over`, (s) => {
        return s.role === 'primary';
      });
      await clients.waitSuccesses({
        names: CLIENT_NAMES,
        afterUs: faultUs,
        count: SUCCESSES_AFTER,
      });
      await pair.restart(other);
      await pair.waitProtected(undefined, serving);
      t.log(`round ${round}: ${serving} took over within ${downtimeMs} ms and is protected again`);
    }
    assertNothingLost(t, await clients.stop());
  });
});
