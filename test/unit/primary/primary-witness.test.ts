/** What the primary does differently with a witness. */
import test from 'ava';
import {
  PrimaryCore,
  type PrimaryInput,
  type PrimaryOptions,
} from '../../../src/primary/primary-core.js';
import { Conversation } from './transcript.js';

const OPTIONS = {
  mode: 'checkpoint',
  period: 1_000_000,
  minIntervalUs: 100_000,
  peerTimeoutUs: 60_000_000,
  holdLimitUs: 15_000_000,
  heartbeatUs: 50_000,
  hasWitness: true,
  firstEpoch: 7,
} as const;

const SYNCHRONISED: readonly PrimaryInput[] = [
  { kind: 'tick' },
  { kind: 'peerConnected' },
  { kind: 'syncRound', remainingBytes: 0 },
];
const LOST: readonly PrimaryInput[] = [
  { kind: 'linkLost', reason: 'Reset' },
  { kind: 'probed', result: 'refused' },
];
const WHY = "Secondary lost: Reset; the peer's host says that nobody listens";
const SMALL_ROUND = { kind: 'presendRound', pages: 0 } as const;
const GRANTED = { kind: 'granted' } as const;

function start(options: Partial<PrimaryOptions> = {}) {
  const core = new PrimaryCore({ ...OPTIONS, ...options });
  return { core, talk: new Conversation(core) };
}

/** Protected; epoch 8 runs since 0. */
function pair(options: Partial<PrimaryOptions> = {}) {
  const node = start(options);
  node.talk.saysAll(...SYNCHRONISED, SMALL_ROUND, { kind: 'captured', epoch: 7, atUs: 0 });
  node.talk.saysAll({ kind: 'committed', epoch: 7 }, { kind: 'applied', epoch: 7 });
  return node;
}

test('the guard is told before the first capture of a session, and only then', (t) => {
  const { talk } = start();
  talk.saysAll(...SYNCHRONISED);
  t.deepEqual(talk.says(SMALL_ROUND), ['protecting', 'capture 7 sync false']);
  talk.saysAll({ kind: 'captured', epoch: 7, atUs: 0 }, { kind: 'committed', epoch: 7 });
  talk.saysAll({ kind: 'applied', epoch: 7 });
  talk.at(1000).says({ kind: 'tick' });
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 period false']);
});

test('a session that ends before its first capture needs no permission', (t) => {
  const { talk } = start();
  talk.saysAll(...SYNCHRONISED);
  t.deepEqual(talk.saysAll(...LOST), ['probe', `runAlone ${WHY}`, `checkpointFailed ${WHY}`]);
});

test('what is held is released by the witness, not by the loss', (t) => {
  const { talk } = pair();
  t.deepEqual(talk.saysAll(...LOST), ['probe', `askAlone true ${WHY}`, `checkpointFailed ${WHY}`]);
  t.deepEqual(talk.says(GRANTED), ['open']);
  t.deepEqual(talk.says(GRANTED), []);
});

test('a secondary that is too slow needs not let go: the witness decides', (t) => {
  const { talk } = pair();
  const outputs = [];
  for (let ms = 1000; ms <= 16_000; ms += 50) {
    talk.at(ms).says({ kind: 'heard', isDeaf: false });
    const lines = talk.says({ kind: 'tick' });
    outputs.push(...lines.filter((line) => line.startsWith('askAlone')).map((l) => `${ms} ${l}`));
  }
  t.is(outputs.length, 1);
  t.regex(outputs[0] ?? '', /^16000 askAlone false The checkpoint of epoch 8 took longer/);
  t.deepEqual(talk.says(GRANTED), ['open']);
});

test('a session that breaks under a checkpoint is not waited for beyond the hold-limit', (t) => {
  for (const kind of ['interrupted', 'linkLost'] as const) {
    const { core, talk } = pair({ holdLimitUs: 400_000 });
    const begun = talk.at(1000).says({ kind: 'tick' });
    t.true(begun.includes('presendRound 8'));
    talk.saysAll(SMALL_ROUND, { kind: 'captured', epoch: 8, atUs: 1_000_000 });
    const asked = [];
    for (let ms = 1050; ms <= 1400; ms += 50) {
      talk.at(ms).says({ kind: 'heard', isDeaf: false });
      // An answer that decides nothing.
      if (ms === 1150)
        talk.saysAll({ kind, reason: 'Reset' }, { kind: 'probed', result: 'holding' });
      const lines = talk.says({ kind: 'tick' });
      asked.push(...lines.filter((line) => line.startsWith('ask')).map((line) => `${ms} ${line}`));
    }
    t.is(asked.length, 1);
    t.regex(asked[0] ?? '', /^1400 askAlone false The checkpoint of epoch 9 took longer/);
    t.deepEqual(talk.says(GRANTED), ['open']);
    t.is(core.state.kind, 'alone');
  }
});

test('silence is no proof', (t) => {
  const { talk } = pair();
  talk.says({ kind: 'linkLost', reason: 'Reset' });
  const outputs = [];
  for (let ms = 50; outputs.length === 0; ms += 50) {
    outputs.push(
      ...talk
        .at(ms)
        .says({ kind: 'tick' })
        .filter((line) => line.startsWith('ask')),
    );
  }
  t.regex(outputs[0] ?? '', /^askAlone false /);
});

test('while it waits for the witness it looks for a secondary, and its commit releases', (t) => {
  const { talk } = pair();
  talk.saysAll(...LOST);
  t.deepEqual(talk.at(60_000).says({ kind: 'tick' }), ['connect']);
  talk.saysAll(...SYNCHRONISED.slice(1));
  t.deepEqual(talk.says(SMALL_ROUND), ['protecting', 'capture 10 sync false']);
  // Of the question that the new session has made void.
  t.deepEqual(talk.says(GRANTED), []);
  talk.says({ kind: 'captured', epoch: 10, atUs: 60_000_000 });
  t.is(talk.says({ kind: 'committed', epoch: 10 })[0], 'release 10');
});

test('a grant during the next synchronisation counts once that is over', (t) => {
  const { core, talk } = pair();
  talk.saysAll(...LOST);
  talk.at(60_000).saysAll({ kind: 'tick' }, { kind: 'peerConnected' });
  t.deepEqual(talk.says(GRANTED), []);
  t.is(core.state.kind, 'session');
  t.is(talk.saysAll(...LOST)[1], `runAlone ${WHY}`);
});

test('a second loss without a grant in between asks again', (t) => {
  const { talk } = pair();
  talk.saysAll(...LOST);
  talk.at(60_000).saysAll({ kind: 'tick' }, { kind: 'peerConnected' });
  t.is(talk.saysAll(...LOST)[1], `askAlone true ${WHY}`);
});

test('who is fenced is silent and becomes a secondary, in whatever state', (t) => {
  const fenced = { kind: 'fenced', reason: 'Old' } as const;
  const alone = pair();
  alone.talk.saysAll(...LOST);
  for (const { core, talk } of [start(), pair(), alone]) {
    t.deepEqual(talk.says(fenced), ['silence', 'checkpointFailed Old', 'demote Old']);
    t.is(core.state.kind, 'left');
  }
});
