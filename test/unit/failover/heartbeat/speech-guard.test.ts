import test from 'ava';
import {
  type GuardOptions,
  type GuardOutput,
  type HeartbeatMessage,
  LAN_LOST_AGAIN_US,
  MAIN_SILENCE_US_MAX,
  SpeechGuard,
} from '../../../../src/failover/index.js';

const P = 500_000;

function guard(options: Partial<GuardOptions> = {}): SpeechGuard {
  return new SpeechGuard({
    role: 'secondary',
    promiseUs: P,
    heartbeatUs: 50_000,
    hasWitness: true,
    takesRisk: false,
    knownToken: 0,
    startUs: 0,
    ...options,
  });
}

const beat = (sequence: number, asks = true): Extract<HeartbeatMessage, { kind: 'heartbeat' }> => ({
  kind: 'heartbeat',
  sequence,
  asks,
  token: 0,
  session: undefined,
  lan: false,
});

const sent = (outputs: GuardOutput[]): HeartbeatMessage[] =>
  outputs.flatMap((output) => (output.kind === 'send' ? [output.message] : []));

test('heartbeats are numbered, sent in time, and confirmed once though they come by two paths', (t) => {
  const g = guard();
  t.like(sent(g.step({ kind: 'tick', mainAliveAtUs: 0 }, 0)), [{ sequence: 1, asks: false }]);
  t.deepEqual(g.step({ kind: 'tick', mainAliveAtUs: 0 }, 49_000), []);
  t.like(sent(g.step({ kind: 'tick', mainAliveAtUs: 0 }, 50_000)), [{ sequence: 2 }]);
  const arrive = (message: HeartbeatMessage) => g.step({ kind: 'arrived', message }, 51_000);
  t.deepEqual(sent(arrive(beat(4))), [{ kind: 'confirmation', sequence: 4, token: 0 }]);
  t.deepEqual(arrive(beat(4)), []);
  t.deepEqual(arrive(beat(3)), []);
  t.deepEqual(sent(arrive(beat(5, false))), []);
});

test('only the confirmation of an own, recent heartbeat gives a right', (t) => {
  const g = guard({ role: 'primary' });
  g.step({ kind: 'tick', mainAliveAtUs: 0 }, 0);
  g.step({ kind: 'tick', mainAliveAtUs: P }, P);
  const arrive = (sequence: number, nowUs: number) =>
    g.step({ kind: 'arrived', message: { kind: 'confirmation', sequence, token: 0 } }, nowUs);
  t.deepEqual(arrive(3, P + 1), []);
  t.deepEqual(arrive(1, P + 1), []);
  t.like(arrive(2, P + 1), [{ kind: 'speak' }]);
});

test('what was heard before and is sent again does not make the peer look alive', (t) => {
  const g = guard();
  const arrive = (message: HeartbeatMessage, nowUs: number) =>
    g.step({ kind: 'arrived', message }, nowUs);
  g.step({ kind: 'joined' }, 0);
  g.step({ kind: 'tick', mainAliveAtUs: 0 }, 0);
  arrive(beat(7), 1);
  arrive({ kind: 'confirmation', sequence: 1, token: 0 }, 2);
  const views: string[] = [];
  for (let nowUs = 50_000; nowUs <= 2 * P; nowUs += 50_000) {
    const outputs = [
      ...g.step({ kind: 'tick', mainAliveAtUs: nowUs }, nowUs),
      ...arrive(beat(7), nowUs + 1),
      ...arrive(beat(3), nowUs + 2),
      ...arrive({ kind: 'confirmation', sequence: 1, token: 0 }, nowUs + 3),
      // Never sent by us.
      ...arrive({ kind: 'confirmation', sequence: 1_000_000, token: 0 }, nowUs + 4),
    ];
    for (const output of outputs) if (output.kind === 'peer') views.push(output.view.kind);
  }
  t.deepEqual(views, ['suspect', 'lost']);
});

test('a hung main thread is not taken for alive: nothing is sent until it is back', (t) => {
  const g = guard();
  const hungUs = MAIN_SILENCE_US_MAX + 1;
  t.deepEqual(g.step({ kind: 'tick', mainAliveAtUs: 0 }, hungUs), [
    { kind: 'mainHung', hung: true },
  ]);
  t.deepEqual(g.step({ kind: 'arrived', message: beat(1) }, hungUs + 1), []);
  t.deepEqual(g.step({ kind: 'tick', mainAliveAtUs: 0 }, hungUs + 60_000), []);
  const back = g.step({ kind: 'tick', mainAliveAtUs: hungUs + 70_000 }, hungUs + 120_000);
  t.like(back, [{ kind: 'mainHung', hung: false }, { kind: 'send' }]);
});

test('a speaker without a LAN is told so when the peer has one, again and again', (t) => {
  const g = guard({ role: 'primary' });
  g.step({ kind: 'tick', mainAliveAtUs: 0 }, 0);
  g.step({ kind: 'joined' }, 0);
  const told = (nowUs: number) =>
    g.step({ kind: 'tick', mainAliveAtUs: nowUs }, nowUs).filter(({ kind }) => kind === 'lanLost')
      .length;
  const hear = (sequence: number, lan: boolean, nowUs: number): void => {
    g.step({ kind: 'arrived', message: { ...beat(sequence, false), lan } }, nowUs);
  };
  const speak = (nowUs: number): void => {
    const answer = { kind: 'granted', token: 1, askedAtUs: nowUs, ttlUs: 60_000_000 } as const;
    g.step({ kind: 'answered', answer }, nowUs);
    g.step({ kind: 'tick', mainAliveAtUs: nowUs }, nowUs);
  };
  speak(P);
  t.is(g.state.kind, 'speaking');
  hear(1, true, P + 1);
  // Without a gateway nobody knows.
  t.is(told(P + 50_000), 0);
  g.step({ kind: 'lan', reachable: true }, P + 60_000);
  t.is(told(P + 100_000), 0);
  g.step({ kind: 'lan', reachable: false }, P + 110_000);
  hear(2, false, P + 120_000);
  t.is(told(P + 150_000), 0, 'the peer is no better off');
  hear(3, true, P + 160_000);
  t.is(told(P + 200_000), 1);
  t.is(told(P + 250_000), 0);
  hear(4, true, P + LAN_LOST_AGAIN_US);
  t.is(told(P + 200_000 + LAN_LOST_AGAIN_US), 1);
});

test('the view of the peer is told when it changes', (t) => {
  const g = guard();
  t.deepEqual(g.step({ kind: 'joined' }, 0), [{ kind: 'peer', view: { kind: 'alive' } }]);
  t.deepEqual(g.step({ kind: 'peerTrouble', reason: 'I/O unfit' }, 1), [
    { kind: 'peer', view: { kind: 'suspect', reason: 'I/O unfit' } },
  ]);
  t.deepEqual(g.step({ kind: 'peerGone', reason: 'QEMU exit' }, 2), [
    { kind: 'peer', view: { kind: 'lost', reason: 'QEMU exit', proof: true } },
  ]);
  t.deepEqual(g.step({ kind: 'parted' }, 3), [{ kind: 'peer', view: { kind: 'unknown' } }]);
});
