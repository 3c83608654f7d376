/** A register in the guest's redis is one register, whichever host the guest runs on. */
import test from 'ava';
import { runFailovers } from '../../scripts/linearizability-run/run.js';
import { withPair } from './pair-harness.js';

/** Ten: scripts/linearizability. */
const FAILOVERS = 2;

test('registers that many clients fight for stay linearizable over failovers', async (t) => {
  await withPair(t, { mode: 'colo', periodMs: 500 }, async (pair) => {
    const options = { failovers: FAILOVERS, clients: 8, registers: 10 };
    const outcome = await runFailovers(pair, { ...options, onFailover: (text) => t.log(text) });
    const { operations, unanswered } = outcome;
    t.log(`${operations} operations, ${unanswered} without an answer`);
    t.deepEqual(outcome.bad, []);
    t.is(outcome.connectionsLost, 0);
    t.is(outcome.registers, options.registers);
  });
});
