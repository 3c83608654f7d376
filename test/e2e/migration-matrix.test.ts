/** One cell of the migration matrix; `scripts/migration-matrix` has all of them. */
import test from 'ava';
import { moveRound } from '../../scripts/migration-run/move-round.js';
import { withContext } from './migration-context.js';

/** How long something took is for a machine at rest to judge. */
const SLACK_MS = 60_000;

test.serial('a guest under load moves by hybrid over TLS: RAM, clients and downtime', async (t) => {
  await withContext(t, async (context) => {
    const cell = { guest: 'redis', method: 'hybrid', security: 'tls' } as const;
    const result = await moveRound(context, { cell, round: 1, slackMs: SLACK_MS });
    t.log(JSON.stringify(result));
    t.deepEqual(result.problems, []);
    t.true(result.ramVerified);
  });
});
