import test from 'ava';
import { SecondaryCore, type SecondaryInput } from '../../../src/secondary/secondary-core.js';
import { Conversation } from '../primary/transcript.js';

const OPTIONS = { peerTimeoutUs: 500_000, heartbeatUs: 100_000, hasWitness: false };

function start(onPeerLoss: 'failover' | 'wait' = 'failover', hasWitness = false) {
  const core = new SecondaryCore({ ...OPTIONS, onPeerLoss, hasWitness });
  const talk = new Conversation(core);
  talk.says({ kind: 'peerConnected' });
  return { core, talk };
}

/** All parts of an epoch of a guest without disks. */
function parts(epoch: number, svmRuns = false): SecondaryInput[] {
  const ram = { frames: 1, pages: 2, digest: 3, deviceStateBytes: 4 };
  const end = {
    ramFrames: 1,
    ramPages: 2,
    ramDigest: 3,
    deviceStateBytes: 4,
    disks: [],
    svmRuns,
    sinceResumeUs: 0,
  };
  return [
    { kind: 'ramStaged', ram: { epoch, ...ram } },
    { kind: 'endRecord', record: { epoch, ...end } },
  ];
}

const applied = (epoch: number): SecondaryInput => ({ kind: 'applied', epoch, durationUs: 9 });
const lost: readonly SecondaryInput[] = [
  { kind: 'linkLost', reason: 'Reset' },
  { kind: 'probed', result: 'refused' },
];
const GONE = "Reset; the peer's host says that nobody listens";

/** A standby that has committed and applied epoch 7. */
function standby(onPeerLoss: 'failover' | 'wait' = 'failover', hasWitness = false) {
  const node = start(onPeerLoss, hasWitness);
  node.talk.saysAll(...parts(7), applied(7));
  return node;
}

test('an epoch is committed, told, applied and told, in this order', (t) => {
  const { talk } = start();
  t.deepEqual(talk.saysAll(...parts(7)), ['commit 7', 'sendCommitted 7', 'apply 7 false']);
  t.deepEqual(talk.says(applied(7)), ['sendApplied 7 9']);
});

test('the next epoch must not come before the last one is applied', (t) => {
  const { core, talk } = start();
  talk.saysAll(...parts(7));
  const reason = 'Epoch 8 came before 7 was applied';
  t.deepEqual(talk.saysAll(...parts(8)), [
    `sendUnfit ${reason}`,
    `closeSession ${reason}`,
    `discard ${reason}`,
  ]);
  t.is(core.state.kind, 'waiting');
});

test('an epoch that was committed never comes again', (t) => {
  const { talk } = standby();
  t.is(talk.saysAll(...parts(7))[0], 'sendUnfit Epoch 7 came before 7 was applied');
});

test('parts that disagree are unfit and never promoted', (t) => {
  const { core, talk } = start();
  const [ram] = parts(7);
  const [, end] = parts(8);
  const outputs = talk.saysAll(ram as SecondaryInput, end as SecondaryInput);
  t.is(outputs[0], 'sendUnfit Parts of epochs 7, 8 arrived together');
  t.deepEqual(talk.saysAll(...lost), []);
  t.is(core.state.kind, 'waiting');
});

test('a loss drops what is staged and promotes the committed epoch', (t) => {
  const { core, talk } = standby();
  talk.says(parts(8)[0] as SecondaryInput);
  t.deepEqual(talk.saysAll(...lost), [
    'probe',
    `closeSession ${GONE}`,
    'dropStaged',
    `promote ${GONE}`,
  ]);
  t.deepEqual(talk.says({ kind: 'promoted' }), []);
  t.like(core.state, { kind: 'active', committedEpoch: 7 });
});

test('a loss while an epoch is applied waits for the apply', (t) => {
  const { talk } = start();
  talk.saysAll(...parts(7));
  t.deepEqual(talk.saysAll(...lost), ['probe', `closeSession ${GONE}`, 'dropStaged']);
  t.deepEqual(talk.says(applied(7)), [`promote ${GONE}`]);
});

test('what arrives after the loss is not staged', (t) => {
  const { talk } = start();
  talk.saysAll(...parts(7), ...lost);
  t.deepEqual(talk.saysAll(...parts(8)), []);
});

test('a loss before the first commit promotes nothing', (t) => {
  const { core, talk } = start();
  const reason = `Primary gone before the first commit: ${GONE}`;
  t.deepEqual(talk.saysAll(...lost).slice(1), [`closeSession ${reason}`, `discard ${reason}`]);
  t.is(core.state.kind, 'waiting');
});

test('a session that broke while the peer lives is never promoted', (t) => {
  const { core, talk } = standby();
  talk.says({ kind: 'linkLost', reason: 'Reset' });
  const reason = "Session lost: Reset; the peer's agent is alive";
  t.deepEqual(talk.says({ kind: 'probed', result: 'alive' }), [
    `closeSession ${reason}`,
    `discard ${reason}`,
  ]);
  t.is(core.state.kind, 'waiting');
});

test('in wait mode a loss raises an alarm and the operator promotes', (t) => {
  const { core, talk } = standby('wait');
  t.is(talk.saysAll(...lost).at(-1), `alarm ${GONE}; waiting for "colo failover"`);
  t.is(core.state.kind, 'waitingForOperator');
  t.deepEqual(talk.says({ kind: 'operatorFailover', force: false }), [
    'promote The operator asked for it',
  ]);
  t.deepEqual(talk.says({ kind: 'promoted' }), ['failoverDone']);
});

test('in wait mode an operator who asks during the last apply is served after it', (t) => {
  for (const force of [false, true]) {
    const { core, talk } = start('wait');
    talk.saysAll(...parts(7), ...lost);
    t.deepEqual(talk.says({ kind: 'operatorFailover', force }), []);
    t.deepEqual(talk.says(applied(7)), [`promote ${GONE}`]);
    t.deepEqual(talk.says({ kind: 'promoted' }), ['failoverDone']);
    t.is(core.state.kind, 'active');
  }
});

test('in wait mode only force takes over during the last apply from a primary that came back', (t) => {
  const { talk } = start('wait');
  talk.saysAll(...parts(7), ...lost);
  t.like(talk.says({ kind: 'peerReturned' }), { length: 1 });
  t.regex(talk.says({ kind: 'operatorFailover', force: false })[0] ?? '', /^failoverRefused /);
  t.deepEqual(talk.says({ kind: 'operatorFailover', force: true }), []);
  t.deepEqual(talk.says(applied(7)), [`promote ${GONE}`]);
});

test('a waiting state whose primary came back is promoted only by force', (t) => {
  const { talk } = standby('wait');
  talk.saysAll(...lost);
  t.regex(talk.says({ kind: 'peerReturned' }).join(), /^alarm A primary has asked/);
  t.deepEqual(talk.says({ kind: 'peerReturned' }), []);
  t.regex(
    talk.says({ kind: 'operatorFailover', force: false }).join(),
    /^failoverRefused A primary has asked/,
  );
  t.deepEqual(talk.says({ kind: 'operatorFailover', force: true }), [
    'promote The operator asked for it',
  ]);
});

test('a secondary whose QEMU hangs holds nothing any more, unless it is the one that serves', (t) => {
  const hung = { kind: 'hung', reason: 'Silent' } as const;
  const { core, talk } = standby();
  t.deepEqual(talk.says(hung), ['sendUnfit Silent', 'closeSession Silent', 'discard Silent']);
  t.is(core.state.kind, 'waiting');
  const serving = standby();
  serving.talk.says({ kind: 'goodbye', goodbye: 'handover', reason: 'x' });
  t.is(serving.core.state.kind, 'promoting');
  t.deepEqual(serving.talk.says(hung), []);
});

test('a stranger who asks for a session changes nothing for a standby', (t) => {
  const { talk } = standby();
  t.deepEqual(talk.says({ kind: 'peerReturned' }), []);
  t.is(talk.saysAll(...lost).at(-1), `promote ${GONE}`);
});

test('a planned take-over asks the primary and follows its word', (t) => {
  const { talk } = standby();
  t.deepEqual(talk.says({ kind: 'operatorFailover', force: false }), ['sendTakeover']);
  t.is(talk.says({ kind: 'yielded' }).at(-1), 'promote The primary yielded');
  t.deepEqual(talk.says({ kind: 'promoted' }), ['failoverDone']);
});

test('in wait mode a primary that falls silent instead of yielding is waited for', (t) => {
  const { core, talk } = standby('wait');
  talk.says({ kind: 'operatorFailover', force: false });
  t.is(talk.saysAll(...lost).at(-1), `failoverRefused ${GONE}`);
  t.is(core.state.kind, 'waitingForOperator');
  t.deepEqual(talk.says({ kind: 'yielded' }), []);
});

test('a suspected primary that asks for a session is probed', (t) => {
  const { core, talk } = standby();
  talk.saysAll({ kind: 'linkLost', reason: 'Reset' }, { kind: 'probed', result: 'silent' });
  t.deepEqual(talk.says({ kind: 'peerReturned' }), ['probe']);
  talk.says({ kind: 'probed', result: 'alive' });
  t.is(core.state.kind, 'waiting');
});

test('a word of yielding that nobody asked for is ignored', (t) => {
  const { talk } = standby();
  t.deepEqual(talk.says({ kind: 'yielded' }), []);
});

test('a forced take-over asks nobody', (t) => {
  const { talk } = standby();
  t.is(
    talk.says({ kind: 'operatorFailover', force: true }).at(-1),
    'promote The operator forced it',
  );
});

test('a take-over without committed state is refused', (t) => {
  const { talk } = start();
  t.deepEqual(talk.says({ kind: 'operatorFailover', force: true }), [
    'failoverRefused This node holds no committed state of the guest',
  ]);
});

test('a primary that hands over is succeeded at once, in wait mode too', (t) => {
  const { talk } = standby('wait');
  const goodbye = { kind: 'goodbye', goodbye: 'handover', reason: 'Disk' } as const;
  t.is(talk.says(goodbye).at(-1), 'promote The primary left: Disk');
});

test('a guest that powered off is not brought back', (t) => {
  const { core, talk } = standby();
  const goodbye = { kind: 'goodbye', goodbye: 'guest-off', reason: 'Halt' } as const;
  t.is(talk.says(goodbye).at(-1), 'discard The guest ended: Halt');
  t.is(core.state.kind, 'waiting');
});

test('a broken standby says so and forgets its state', (t) => {
  const { talk } = standby();
  t.deepEqual(talk.says({ kind: 'broken', reason: 'QEMU' }), [
    'sendUnfit QEMU',
    'closeSession QEMU',
    'discard QEMU',
  ]);
});

test('a node that breaks while it goes live leaves', (t) => {
  const { core, talk } = standby();
  talk.saysAll(...lost);
  t.deepEqual(talk.says({ kind: 'broken', reason: 'TAP' }), ['failoverRefused TAP', 'exit 1 TAP']);
  t.is(core.state.kind, 'left');
});

test('after a discard the next primary is welcome', (t) => {
  const { core, talk } = standby();
  talk.says({ kind: 'broken', reason: 'QEMU' });
  t.deepEqual(talk.says({ kind: 'peerConnected' }), []);
  t.deepEqual(talk.saysAll(...parts(3)), ['commit 3', 'sendCommitted 3', 'apply 3 false']);
  t.is(core.committedEpoch, 3);
});

test('a standby that is stopped says that it can not protect any more', (t) => {
  const { talk } = standby();
  t.deepEqual(talk.says({ kind: 'stopRequested', reason: 'Stop' }), [
    'sendUnfit Stop',
    'exit 0 Stop',
  ]);
  t.deepEqual(talk.saysAll(...lost), []);
});

test('the end record says whether the SVM executes until the next one', (t) => {
  const { core, talk } = start();
  t.deepEqual(talk.saysAll(...parts(7, true)), ['commit 7', 'sendCommitted 7', 'apply 7 true']);
  talk.says(applied(7));
  t.true(core.svmRuns);
  t.deepEqual(talk.saysAll(...parts(8)), ['commit 8', 'sendCommitted 8', 'apply 8 false']);
  t.false(core.svmRuns);
});

test('with a witness a loss is a claim, and its grant promotes', (t) => {
  const { core, talk } = standby('failover', true);
  t.deepEqual(talk.saysAll(...lost).slice(2), ['dropStaged', 'askTakeOver true false']);
  t.is(core.probeAnswer, 'holding');
  t.deepEqual(talk.says({ kind: 'granted' }), [`promote ${GONE}`]);
  t.is(core.probeAnswer, 'serving');
  t.deepEqual(talk.says({ kind: 'granted' }), []);
});

test('with a witness silence is no proof, and a yield is', (t) => {
  const silent = standby('failover', true);
  silent.talk.says({ kind: 'linkLost', reason: 'Reset' });
  const asked: string[] = [];
  for (let ms = 100; ms <= 1000; ms += 100)
    asked.push(...silent.talk.at(ms).says({ kind: 'tick' }));
  t.deepEqual(
    asked.filter((line) => line.startsWith('ask')),
    ['askTakeOver false false'],
  );
  const yielded = standby('failover', true);
  yielded.talk.says({ kind: 'operatorFailover', force: false });
  t.is(yielded.talk.says({ kind: 'yielded' }).at(-1), 'askTakeOver true false');
  t.deepEqual(yielded.talk.saysAll({ kind: 'granted' }, { kind: 'promoted' }), [
    'promote The primary yielded',
    'failoverDone',
  ]);
});

test('a claim waits for the apply, and an old state is discarded whatever is asked', (t) => {
  const stale = { kind: 'stale', reason: 'Old' } as const;
  const { core, talk } = start('failover', true);
  talk.saysAll(...parts(7), ...lost);
  t.deepEqual(talk.says(applied(7)), ['askTakeOver true false']);
  t.deepEqual(talk.says(stale), ['closeSession Old', 'discard Old']);
  t.is(core.state.kind, 'waiting');
  t.deepEqual(talk.says({ kind: 'granted' }), []);
  t.deepEqual(standby('failover', true).talk.says(stale), ['closeSession Old', 'discard Old']);
});

test('a claim that the witness does not answer is for the operator to force', (t) => {
  const { talk } = standby('failover', true);
  talk.saysAll(...lost);
  const [refused] = talk.says({ kind: 'operatorFailover', force: false });
  t.regex(refused ?? '', /^failoverRefused The witness has not allowed it yet/);
  const forced = talk.says({ kind: 'operatorFailover', force: true });
  t.deepEqual(forced, ['askTakeOver false true']);
  t.deepEqual(talk.saysAll({ kind: 'granted' }, { kind: 'promoted' }).at(-1), 'failoverDone');
});

test('a secondary that is detached lets go, says so, and waits', (t) => {
  const { core, talk } = standby();
  t.deepEqual(talk.says({ kind: 'goodbye', goodbye: 'detach', reason: 'Asked' }), [
    'sendUnfit Asked',
    'closeSession Asked',
    'discard Asked',
  ]);
  t.is(core.state.kind, 'waiting');
});

test('a secondary that is stopped from the primary ends in order', (t) => {
  const { talk } = standby();
  const goodbye = { kind: 'goodbye', goodbye: 'stop', reason: 'Asked' } as const;
  t.deepEqual(talk.says(goodbye), ['sendUnfit Asked', 'exit 0 Asked']);
});

test('an interrupted session promotes when the primary is dead, not when it serves', (t) => {
  const dead = standby();
  t.deepEqual(dead.talk.says({ kind: 'interrupted', reason: 'Reset' }), ['probe']);
  t.true(dead.talk.says({ kind: 'probed', result: 'refused' }).includes(`promote ${GONE}`));
  const { core, talk } = standby();
  talk.says({ kind: 'interrupted', reason: 'Reset' });
  t.deepEqual(talk.says({ kind: 'probed', result: 'serving' }), []);
  talk.says({ kind: 'resumed' });
  t.is(core.state.kind, 'standby');
  t.false(core.peerSuspected);
  t.deepEqual(talk.saysAll(...parts(8)), ['commit 8', 'sendCommitted 8', 'apply 8 false']);
});

test('a primary that begins another session has given up the interrupted one', (t) => {
  const { core, talk } = standby();
  talk.saysAll({ kind: 'interrupted', reason: 'Reset' }, { kind: 'probed', result: 'serving' });
  t.deepEqual(talk.says({ kind: 'peerReturned' }), ['probe']);
  t.regex(talk.says({ kind: 'probed', result: 'serving' }).at(-1) ?? '', /^discard /);
  t.is(core.state.kind, 'waiting');
});
