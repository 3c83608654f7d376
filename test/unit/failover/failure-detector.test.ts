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

/** The same with a peer whose host gives no answer to any probe. */
function tickUntilDecided(d: FailureDetector, fromUs: number, toUs: number) {
  for (let nowUs = fromUs; nowUs <= toUs; nowUs += 50) {
    const verdict = d.tick(nowUs);
    if (verdict?.kind === 'probe') d.probed('silent');
    else if (verdict !== undefined) return { verdict, nowUs };
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
  t.like(tickUntilDecided(d, 5000, 9000), { verdict: { kind: 'lost' }, nowUs: 5450 });
});

test('a process that was stopped itself reads its sockets before it judges', (t) => {
  const d = detector();
  d.start(0);
  t.is(d.tick(60_000), undefined);
  d.heard(60_001);
  t.is(tickUntilDecided(d, 60_050, 60_450), undefined);
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
  d.probed('silent');
  t.like(tickUntilDecided(d, 200, 1000), { verdict: { kind: 'lost' }, nowUs: 500 });
});

test('a silent peer is asked at half of the time-out, and not again in its last quarter', (t) => {
  const d = detector();
  d.start(0);
  t.like(tickUntil(d, 50, 1000), { verdict: { kind: 'probe' }, nowUs: 250 });
  t.false(d.suspected);
  d.probed('silent');
  t.like(tickUntil(d, 300, 1000), { verdict: { kind: 'probe' }, nowUs: 300 });
  t.is(tickUntil(d, 350, 350), undefined);
  d.probed('unreachable');
  t.is(tickUntil(d, 400, 450), undefined);
  t.like(d.tick(500), { kind: 'lost' });
});

test('a peer that answers while its session is silent is asked again before it is given up', (t) => {
  for (const [result, kind] of [
    ['alive', 'abandoned'],
    ['serving', 'superseded'],
    ['refused', 'lost'],
    ['replaced', 'lost'],
    ['leading', 'abandoned'],
    ['shared', 'abandoned'],
    ['following', 'abandoned'],
  ] as const) {
    const d = detector();
    d.start(0);
    for (let nowUs = 50; nowUs < 500; nowUs += 50) {
      if (d.tick(nowUs)?.kind === 'probe') t.is(d.probed('alive')?.kind, 'renew');
    }
    t.deepEqual(d.tick(500), { kind: 'probe' });
    t.true(d.suspected);
    t.like(d.probed(result), { kind });
    t.is(d.deadlineUs(), undefined);
  }
});

test('a peer that answered once and then no more is lost', (t) => {
  const d = detector();
  d.start(0);
  tickUntil(d, 50, 250);
  t.deepEqual(d.probed('alive'), { kind: 'renew' });
  t.like(tickUntilDecided(d, 300, 1000)?.verdict, { kind: 'lost' });
});

test('a peer that is heard again is not asked', (t) => {
  const d = detector();
  d.start(0);
  tickUntil(d, 50, 250);
  d.probed('alive');
  d.heard(260);
  t.is(tickUntil(d, 300, 500), undefined);
});

test('a peer that still holds its state is asked until twice the time-out', (t) => {
  const d = detector();
  d.start(0);
  d.linkLost('Dismissed');
  let asked = 0;
  for (let nowUs = 50; nowUs < 1000; nowUs += 50) {
    t.is(d.probed('holding'), undefined);
    const verdict = d.tick(nowUs);
    t.not(verdict?.kind, 'lost');
    if (verdict?.kind === 'probe') asked += 1;
  }
  t.true(asked > 10);
  t.is(d.probed('holding'), undefined);
  t.like(d.tick(1000), { kind: 'lost' });
});

test('the time-out waits for an answer that is under way, but not for ever', (t) => {
  const d = detector();
  d.start(0);
  tickUntilDecided(d, 50, 450);
  t.deepEqual(d.linkLost('Reset'), { kind: 'probe' });
  t.is(d.tick(500), undefined);
  t.like(d.probed('serving'), { kind: 'superseded' });
  const forgotten = detector();
  forgotten.start(0);
  tickUntilDecided(forgotten, 50, 450);
  forgotten.linkLost('Reset');
  t.like(tickUntil(forgotten, 500, 5000), { verdict: { kind: 'lost' }, nowUs: 1000 });
});

test('a broken link to a peer that runs the guest itself means that this side is superseded', (t) => {
  const d = detector();
  d.start(0);
  d.linkLost('Ended');
  t.is(d.probed('serving')?.kind, 'superseded');
  t.is(d.deadlineUs(), undefined);
});

test('an interrupted session asks at once, and proof of death counts at once', (t) => {
  for (const proof of ['refused', 'replaced'] as const) {
    const d = detector();
    d.start(0);
    t.deepEqual(d.interruptedBy('Reset'), { kind: 'probe' });
    t.true(d.suspected);
    t.like(d.probed(proof), { kind: 'lost', proof: true });
  }
});

test('an interrupted session whose peer lives waits for what becomes of it', (t) => {
  for (const answer of ['alive', 'leading', 'shared', 'following', 'holding', 'silent'] as const) {
    const d = detector();
    d.start(0);
    d.interruptedBy('Reset');
    t.is(d.probed(answer), undefined);
    t.true(d.interrupted);
    d.resumed();
    t.false(d.suspected);
    t.is(d.interruptedBy('Again')?.kind, 'probe');
  }
});

test('a secondary that speaks for the guest has taken over; a primary just does', (t) => {
  const secondary = detector();
  secondary.start(0);
  secondary.interruptedBy('Reset');
  t.is(secondary.probed('serving')?.kind, 'superseded');
  const primary = new FailureDetector({ peerTimeoutUs: 500, tickUs: 50, peerServes: true });
  primary.start(0);
  primary.interruptedBy('Reset');
  t.is(primary.probed('serving'), undefined);
  // The session could not be resumed: now it is asked what the answer means.
  t.deepEqual(primary.linkLost('Not resumed'), { kind: 'probe' });
  t.true(primary.isOver);
  t.is(primary.probed('serving')?.kind, 'superseded');
});

test('an interruption does not stop the clock, and being heard does', (t) => {
  const d = detector();
  d.start(0);
  d.interruptedBy('Reset');
  d.probed('silent');
  t.like(tickUntilDecided(d, 50, 1000), { verdict: { kind: 'lost' }, nowUs: 500 });
  const heard = detector();
  heard.start(0);
  heard.interruptedBy('Reset');
  heard.probed('holding');
  for (let nowUs = 50; nowUs < 3000; nowUs += 50) {
    heard.heard(nowUs);
    if (heard.tick(nowUs)?.kind === 'probe') heard.probed('holding');
    t.true(heard.interrupted);
  }
});

test('a session that is over is not resumed, and an interruption of it is none', (t) => {
  const d = detector();
  d.start(0);
  d.linkLost('Reset');
  d.resumed();
  t.is(d.interruptedBy('Reset'), undefined);
  t.true(d.isOver);
});

test('a silent session whose peer answers is to be connected anew', (t) => {
  const d = detector();
  d.start(0);
  t.like(tickUntil(d, 50, 1000), { verdict: { kind: 'probe' }, nowUs: 250 });
  t.deepEqual(d.probed('holding'), { kind: 'renew' });
  t.like(tickUntil(d, 300, 1000), { verdict: { kind: 'probe' } });
  t.is(d.probed('silent'), undefined);
});

/**
 * Two detectors that tell each other each 50 us whether they hear anything, over a link that
 * carries what `carries` says: what each has judged, and when.
 */
function facing(carries: (from: number, nowUs: number) => boolean, untilUs: number) {
  const both = [detector(), detector()] as const;
  const judged = new Map<number, string>();
  for (const d of both) d.start(0);
  for (let nowUs = 50; nowUs <= untilUs; nowUs += 50) {
    for (const [side, d] of both.entries()) {
      const verdict = d.tick(nowUs);
      if (verdict?.kind === 'probe') d.probed('silent');
      else if (verdict !== undefined) judged.set(side, `${verdict.kind} at ${nowUs}`);
    }
    const words = both.map(({ hears }) => hears);
    for (const [from, hears] of words.entries()) {
      // Whoever has judged ends its session, and says nothing more.
      if (carries(from, nowUs) && !judged.has(from)) both[1 - from]?.heard(nowUs, !hears);
    }
  }
  return Object.fromEntries(judged);
}

test('a link that is cut one way is lost to the side that hears, too, and soon', (t) => {
  const judged = facing((from, nowUs) => from === 1 || nowUs <= 1000, 9000);
  // The other one says that it is deaf after 150 us, three words of it were right until then.
  t.deepEqual(judged, { 1: 'lost at 1500', 0: 'lost at 1600' });
});

test('a peer that is deaf is lost by that name', (t) => {
  const d = detector();
  d.start(0);
  for (let nowUs = 50; nowUs < 500; nowUs += 50) {
    d.heard(nowUs, true);
    if (d.tick(nowUs)?.kind === 'probe') d.probed('silent');
  }
  d.heard(500, true);
  t.deepEqual(d.tick(500), { kind: 'lost', reason: 'deaf for 1 ms', proof: false });
});

test('after a blackout both sides say that they are deaf, and neither is lost for it', (t) => {
  t.deepEqual(
    facing((_from, nowUs) => nowUs <= 1000 || nowUs > 1350, 9000),
    {},
  );
});

test('a peer that is not heard is told so, soon and not at once', (t) => {
  const d = detector();
  d.start(0);
  for (const nowUs of [50, 100]) d.tick(nowUs);
  t.true(d.hears);
  d.tick(150);
  t.false(d.hears);
  d.heard(160, true);
  t.true(d.hears);
});
