/**
 * A guest moves from one host to another while clients use it, and back: connections live on, its
 * disk and its memory are what they were.
 */
import test from 'ava';
import { CLIENT_NAMES } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { migrate, withMovable } from './migrate-harness.js';
import { assertNothingLost, startClients } from './pair-harness.js';

const SUCCESSES_AFTER = 5;

for (const method of [[], ['--hybrid'], ['--postcopy']]) {
  const name = method[0] ?? 'precopy';
  test.serial(`a guest under load moves there and back: ${name}`, async (t) => {
    await withMovable(t, { primaryFlags: ['--verify'] }, async (pair) => {
      const clients = await startClients(pair, { clients: CLIENT_NAMES });
      await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: 0, count: SUCCESSES_AFTER });
      for (const [from, to] of [
        ['hosta', 'hostb'],
        ['hostb', 'hosta'],
      ] as const) {
        if (to === 'hosta') await pair.startWaiting();
        const atUs = nowUs();
        const { code, out, err } = await migrate(pair, from, to, method);
        t.log(`${from} to ${to}: ${out.trim()} ${err.trim().split('\n').at(-1)}`);
        t.is(code, 0, `${out}${err}`);
        await pair.waitEnded(from);
        await pair.waitStatus(to, 'it is the primary', ({ role, state }) => {
          return role === 'primary' && state !== 'receiving';
        });
        await clients.waitSuccesses({
          names: CLIENT_NAMES,
          afterUs: atUs,
          count: SUCCESSES_AFTER,
        });
      }
      assertNothingLost(t, await clients.stop());
    });
  });
}
