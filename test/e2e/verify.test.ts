/** RAM of SVM and PVM compared at every checkpoint, while the guest is busy: no page is missed. */
import test from 'ava';
import { controlGuest, startClients, withPair } from './pair-harness.js';

const CHECKPOINTS = 100;
const DEADLINE_MS = 300_000;

for (const mode of ['checkpoint', 'colo'] as const) {
  test(`RAM is equal at ${CHECKPOINTS} checkpoints under load, mode ${mode}`, async (t) => {
    const options = { mode, primaryFlags: ['--verify'], periodMs: 100 };
    await withPair(t, options, async (pair) => {
      const guest = controlGuest(pair);
      await guest.command('scribble 20 32');
      await guest.command('diskload 4');
      const clients = await startClients(pair);
      const before = await pair.status('hosta');
      const wanted = before.checkpoints.total + CHECKPOINTS;
      const after = await pair.waitStatus(
        'hosta',
        `${CHECKPOINTS} more checkpoints are committed`,
        (status) => status.checkpoints.failed > 0 || status.checkpoints.total >= wanted,
        DEADLINE_MS,
      );
      // A digest that differs makes the secondary unfit, which is a failed checkpoint here.
      t.is(after.checkpoints.failed, 0, after.lastFailure ?? '');
      t.is(after.lastFailure, null);
      const secondary = await pair.status('hostb');
      t.is(secondary.lastFailure, null);
      t.true(secondary.verified >= CHECKPOINTS, `${secondary.verified} digests were compared`);
      await pair.kill('hosta');
      await pair.waitStatus('hostb', 'hostb took over', ({ role }) => role === 'primary');
      const reports = await clients.stop();
      t.is(reports.redis?.acknowledgedLost, 0);
      t.is(reports.stream?.missing, 0);
      t.is(reports.stream?.repeats, 0);
    });
  });
}
