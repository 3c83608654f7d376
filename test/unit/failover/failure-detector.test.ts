import test from 'ava';
import { FailureDetector } from '../../../src/failover/index.js';

const detector = () => new FailureDetector({ peerTimeoutUs: 500, tickUs: 50 });

function tickUntil(d: FailureDetector, fromUs: number, toUs: number) {
  for (let nowUs = fromUs; nowUs <= toUs; nowUs += 50) {
    const verdict = d.tick(nowUs);
    if (verdict !== undefined) return { verdict, nowUs };
  }
  return undefined;
}

test('a peer that is heard is never lost, one that is silent for the time-out is', (t) => {
  const d = detector();
  d.start(0);
  for (let nowUs = 50; nowUs < 5000; nowUs += 50) {
    d.heard(nowUs);
    t.is(d.tick(nowUs), undefined);
  }
  t.like(tickUntil(d, 5000, 9000), { verdict: { kind: 'lost' }, nowUs: 5450 });
});

test('a process that was stopped itself reads its sockets before it judges', (t) => {
  const d = detector();
  d.start(0);
  t.is(d.tick(60_000), undefined);
  d.heard(60_001);
  t.is(tickUntil(d, 60_050, 60_450), undefined);
});

test('a broken link whose host refuses connections is a dead peer at once', (t) => {
  const d = detector();
  d.start(0);
  t.deepEqual(d.linkLost('Reset'), { kind: 'probe' });
  t.true(d.suspected);
  t.is(d.probed('refused')?.kind, 'lost');
  t.is(d.deadlineUs(), undefined);
});

test('a broken link to a peer that answers is abandoned, not lost', (t) => {
  const d = detector();
  d.start(0);
  d.linkLost('Reset');
  t.is(d.probed('alive')?.kind, 'abandoned');
});

test('a broken link to an unreachable host is probed again until the time-out', (t) => {
  const d = detector();
  d.start(0);
  d.linkLost('Reset');
  t.is(d.probed('unreachable'), undefined);
  t.deepEqual(d.tick(50), { kind: 'probe' });
  t.is(d.tick(100), undefined);
  d.probed('silent');
  t.like(tickUntil(d, 150, 1000), { verdict: { kind: 'probe' }, nowUs: 150 });
  t.like(tickUntil(d, 200, 1000), { verdict: { kind: 'lost' }, nowUs: 500 });
});

test('a broken link to a peer that runs the guest itself means that this side is superseded', (t) => {
  const d = detector();
  d.start(0);
  d.linkLost('Ended');
  t.is(d.probed('serving')?.kind, 'superseded');
  t.is(d.deadlineUs(), undefined);
});
