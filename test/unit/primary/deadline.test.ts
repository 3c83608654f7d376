import test from 'ava';
import { PrimaryCore } from '../../../src/primary/primary-core.js';

const OPTIONS = {
  mode: 'checkpoint' as const,
  period: 100_000,
  minIntervalUs: 10_000,
  peerTimeoutUs: 60_000_000,
  holdLimitUs: 15_000_000,
  heartbeatUs: 50_000,
  hasWitness: false,
  firstEpoch: 1,
};

/** A core whose first capture is done at 0. */
function committing(): PrimaryCore {
  const core = new PrimaryCore(OPTIONS);
  core.step({ kind: 'tick' }, 0);
  core.step({ kind: 'peerConnected' }, 0);
  core.step({ kind: 'syncRound', remainingBytes: 0 }, 0);
  core.step({ kind: 'presendRound', pages: 0 }, 0);
  core.step({ kind: 'captured', epoch: 1, atUs: 0 }, 0);
  return core;
}

/** Ticks as a shell would; fails when a tick is due at once again and again. */
function tickTo(core: PrimaryCore, fromUs: number, toUs: number): number {
  let ticks = 0;
  for (let nowUs = fromUs; nowUs < toUs; ticks += 1) {
    core.step({ kind: 'tick' }, nowUs);
    const deadlineUs = core.deadlineUs();
    if (deadlineUs === undefined || deadlineUs <= nowUs) return Number.POSITIVE_INFINITY;
    nowUs = deadlineUs;
  }
  return ticks;
}

test('a period that ends while the peer is suspected asks for no ticks of its own', (t) => {
  const core = committing();
  core.step({ kind: 'committed', epoch: 1 }, 1000);
  core.step({ kind: 'applied', epoch: 1 }, 2000);
  core.step({ kind: 'linkLost', reason: 'Reset' }, 3000);
  t.true(tickTo(core, 3000, 1_000_000) <= 2 * (1_000_000 / OPTIONS.heartbeatUs));
});

test('a commit time-out that passes while the peer is suspected asks for none either', (t) => {
  const core = committing();
  core.step({ kind: 'linkLost', reason: 'Reset' }, 3000);
  const afterUs = OPTIONS.holdLimitUs + 1;
  t.true(tickTo(core, afterUs, afterUs + 1_000_000) <= 2 * (1_000_000 / OPTIONS.heartbeatUs));
});
