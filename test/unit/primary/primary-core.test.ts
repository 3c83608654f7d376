import test from 'ava';
import type { Mode } from '../../../src/config/index.js';
import { OVERRUN_REST_US_MAX, PRESEND_ROUNDS_MAX } from '../../../src/primary/limits.js';
import { PrimaryCore, type PrimaryInput } from '../../../src/primary/primary-core.js';
import { Conversation } from './transcript.js';

const OPTIONS = {
  mode: 'checkpoint' as Mode,
  period: 1_000_000,
  minIntervalUs: 100_000,
  peerTimeoutUs: 60_000_000,
  holdLimitUs: 15_000_000,
  heartbeatUs: 50_000,
  hasWitness: false,
  firstEpoch: 7,
};

function start(options: Partial<typeof OPTIONS> = {}) {
  const core = new PrimaryCore({ ...OPTIONS, ...options });
  return { core, talk: new Conversation(core) };
}

/** Without heartbeats, which come whenever a tick does. */
function tick(talk: Conversation<PrimaryInput, object>): string[] {
  return talk.says({ kind: 'tick' }).filter((line) => line !== 'heartbeat true');
}

const CONNECT: readonly PrimaryInput[] = [
  { kind: 'tick' },
  { kind: 'peerConnected' },
  { kind: 'syncRound', remainingBytes: 0 },
];
const SMALL_ROUND = { kind: 'presendRound', pages: 0 } as const;
const UNREACHABLE = { kind: 'probed', result: 'unreachable' } as const;
const RESET = { kind: 'linkLost', reason: 'Reset' } as const;

function captured(epoch: number, atUs: number): PrimaryInput {
  return { kind: 'captured', epoch, atUs };
}

/** Protected; epoch 8 runs since 0. */
function pair(options: Partial<typeof OPTIONS> = {}) {
  const node = start(options);
  node.talk.saysAll(...CONNECT, SMALL_ROUND, captured(7, 0));
  node.talk.saysAll({ kind: 'committed', epoch: 7 }, { kind: 'applied', epoch: 7 });
  return node;
}

test('the first checkpoint: synchronise, pre-send, capture, commit, apply', (t) => {
  const { core, talk } = start();
  t.deepEqual(talk.says({ kind: 'tick' }), ['connect']);
  t.deepEqual(talk.says({ kind: 'peerConnected' }), ['syncRound 7 true']);
  t.deepEqual(talk.says({ kind: 'syncRound', remainingBytes: 1e9 }), ['syncRound 7 false']);
  t.deepEqual(talk.says({ kind: 'syncRound', remainingBytes: 0 }), ['presendRound 7']);
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 7 sync false']);
  t.deepEqual(talk.says(captured(7, 0)), []);
  t.false(core.isProtected);
  t.deepEqual(talk.says({ kind: 'committed', epoch: 7 }), ['release 7', 'checkpointDone 7 sync']);
  t.true(core.isProtected);
  t.deepEqual(talk.says({ kind: 'applied', epoch: 7 }), []);
  t.is(core.epoch, 8);
});

test('a checkpoint begins when the period is over, not sooner', (t) => {
  const { talk } = pair();
  t.deepEqual(tick(talk.at(999)), []);
  t.deepEqual(tick(talk.at(1000)), ['presendRound 8']);
});

test('a shorter period counts at once', (t) => {
  const { talk } = pair();
  t.deepEqual(talk.at(300).says({ kind: 'periodChanged', period: 200_000 }), ['presendRound 8']);
});

test('a trigger never begins sooner than the least interval after the resume', (t) => {
  const { talk } = pair();
  t.deepEqual(talk.at(50).says({ kind: 'checkpointRequested', trigger: 'operator' }), []);
  t.deepEqual(tick(talk.at(99)), []);
  t.deepEqual(tick(talk.at(100)), ['presendRound 8']);
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 operator false']);
});

test('a trigger during a transaction waits for its end', (t) => {
  const { talk } = pair();
  tick(talk.at(1000));
  talk.saysAll(SMALL_ROUND, captured(8, 1_000_000), { kind: 'committed', epoch: 8 });
  t.deepEqual(talk.at(1200).says({ kind: 'checkpointRequested', trigger: 'bound' }), []);
  t.deepEqual(talk.says({ kind: 'applied', epoch: 8 }), ['presendRound 9']);
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 9 bound false']);
});

test('a bound does not take the place of an operator who waits', (t) => {
  const { talk } = pair();
  talk.says({ kind: 'checkpointRequested', trigger: 'operator' });
  talk.says({ kind: 'checkpointRequested', trigger: 'bound' });
  tick(talk.at(100));
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 operator false']);
});

test('without a secondary an operator is told so, and a bound asks for nothing', (t) => {
  const { talk } = start();
  t.deepEqual(talk.says({ kind: 'checkpointRequested', trigger: 'operator' }), [
    'checkpointFailed No secondary is connected',
  ]);
  t.deepEqual(talk.says({ kind: 'checkpointRequested', trigger: 'bound' }), []);
});

test('pre-send goes on only while each round is clearly smaller', (t) => {
  const { talk } = start();
  talk.saysAll(...CONNECT);
  t.deepEqual(talk.says({ kind: 'presendRound', pages: 10_000 }), ['presendRound 7']);
  t.deepEqual(talk.says({ kind: 'presendRound', pages: 6_900 }), ['presendRound 7']);
  t.deepEqual(talk.says({ kind: 'presendRound', pages: 4_900 }), ['capture 7 sync false']);
});

test('pre-send has a last round', (t) => {
  const { talk } = start();
  talk.saysAll(...CONNECT);
  for (let round = 1; round < PRESEND_ROUNDS_MAX; round += 1) {
    const pages = 1e9 / 2 ** round;
    t.deepEqual(talk.says({ kind: 'presendRound', pages }), ['presendRound 7']);
  }
  t.deepEqual(talk.says({ kind: 'presendRound', pages: 1e5 }), ['capture 7 sync false']);
});

/** The secondary is heard, and this node awake: what it does first, beside heartbeats, and when. */
function awake(talk: Conversation<PrimaryInput, object>, fromMs: number, toMs: number) {
  for (let ms = fromMs; ms <= toMs; ms += 50) {
    talk.at(ms).says({ kind: 'heard', isDeaf: false });
    const outputs = tick(talk);
    if (outputs.length > 0) return { ms, outputs };
  }
  return undefined;
}

const DISMISSED = ['endSession', 'probe'];

test('a secondary that does not commit in time is dropped', (t) => {
  const { talk } = start();
  talk.saysAll(...CONNECT, SMALL_ROUND, captured(7, 0));
  t.deepEqual(awake(talk, 0, 20_000), { ms: 15_000, outputs: DISMISSED });
  const [first] = talk.says({ kind: 'probed', result: 'alive' });
  t.regex(first ?? '', /^runAlone .*epoch 8 took longer than hold-limit, 15000 ms/);
});

test('the hold-limit counts from the beginning of a checkpoint to its end', (t) => {
  const { core, talk } = pair({ holdLimitUs: 400_000 });
  t.deepEqual(awake(talk, 0, 5000), { ms: 1000, outputs: ['presendRound 8'] });
  t.is(awake(talk, 1050, 1200), undefined);
  talk.saysAll(SMALL_ROUND, captured(8, 1_200_000));
  t.is(awake(talk, 1250, 1350), undefined);
  talk.saysAll({ kind: 'committed', epoch: 8 }, { kind: 'applied', epoch: 8 });
  // The next one is applied too late, although it was committed in time.
  t.deepEqual(awake(talk, 1400, 5000), { ms: 2200, outputs: ['presendRound 9'] });
  talk.saysAll(SMALL_ROUND, captured(9, 2_200_000), { kind: 'committed', epoch: 9 });
  t.deepEqual(awake(talk, 2250, 5000), { ms: 2600, outputs: DISMISSED });
  t.false(core.isProtected);
});

test('a QEMU that hangs in the pause is no fault of the secondary', (t) => {
  const { core, talk } = pair({ holdLimitUs: 400_000 });
  t.deepEqual(awake(talk, 0, 5000), { ms: 1000, outputs: ['presendRound 8'] });
  t.is(awake(talk, 1050, 1300), undefined);
  talk.says(SMALL_ROUND);
  t.is(awake(talk, 1350, 20_000), undefined);
  t.true(core.isProtected);
  // It came back, and a quarter of the limit is left for the rest.
  talk.at(20_000).says(captured(8, 20_000_000));
  t.deepEqual(awake(talk, 20_050, 30_000), { ms: 20_100, outputs: DISMISSED });
});

test('a process that was stopped itself reads its sockets before it gives a secondary up', (t) => {
  const { core, talk } = pair({ holdLimitUs: 400_000 });
  awake(talk, 0, 1000);
  talk.saysAll(SMALL_ROUND, captured(8, 1_000_000));
  t.is(awake(talk, 1050, 1200), undefined);
  t.deepEqual(tick(talk.at(9000)), []);
  t.true(core.isProtected);
  t.deepEqual(awake(talk, 9050, 20_000), { ms: 9100, outputs: DISMISSED });
});

test('a secondary that is too slow is left alone, longer each time', (t) => {
  const { core, talk } = start({ holdLimitUs: 400_000 });
  const rests: number[] = [];
  for (let nowMs = 0; rests.at(-1) !== OVERRUN_REST_US_MAX / 1000; ) {
    talk.at(nowMs).saysAll(...CONNECT, SMALL_ROUND, captured(core.epoch, nowMs * 1000));
    t.deepEqual(awake(talk, nowMs, nowMs + 1000), { ms: nowMs + 400, outputs: DISMISSED });
    nowMs += 400;
    talk.says({ kind: 'probed', result: 'alive' });
    const since = nowMs;
    while (!talk.at(nowMs).says({ kind: 'tick' }).includes('connect')) nowMs += 100;
    rests.push(nowMs - since);
  }
  t.deepEqual(rests, [2000, 4000, 8000, 16_000, 20_000]);
});

test('a commit out of turn ends the session and releases by that alone', (t) => {
  const { talk } = pair();
  t.deepEqual(talk.says({ kind: 'committed', epoch: 8 }), ['endSession', 'probe']);
  const [first] = talk.says({ kind: 'probed', result: 'alive' });
  t.regex(first ?? '', /^runAlone .*Secondary committed epoch 8 out of turn/);
});

test('an apply out of turn ends the session', (t) => {
  const { talk } = start();
  talk.saysAll(...CONNECT, SMALL_ROUND, captured(7, 0));
  t.deepEqual(talk.says({ kind: 'applied', epoch: 7 }), ['endSession', 'probe']);
});

test('a lost link alone releases nothing', (t) => {
  const { core, talk } = pair();
  t.deepEqual(talk.says(RESET), ['probe']);
  t.deepEqual(talk.says(UNREACHABLE), []);
  t.false(core.isProtected);
  t.deepEqual(tick(talk.at(2000)), ['probe']);
});

test('a secondary that is lost, or lives without us, leaves the primary alone', (t) => {
  for (const result of ['refused', 'alive'] as const) {
    const { core, talk } = pair();
    talk.says(RESET);
    t.regex(talk.says({ kind: 'probed', result })[0] ?? '', /^runAlone Secondary (lost|abandoned)/);
    t.is(core.state.kind, 'alone');
  }
});

test('a refusal that only an operator can end is not asked about at once', (t) => {
  for (const [needsOperator, againMs] of [
    [false, 1000],
    [true, 10_000],
  ] as const) {
    const { talk } = start();
    talk.says({ kind: 'tick' });
    talk.says({ kind: 'peerRefused', reason: 'No', needsOperator });
    t.deepEqual(tick(talk.at(againMs - 1)), []);
    t.deepEqual(tick(talk.at(againMs)), ['connect']);
  }
});

test('a capture that ends after its session is ignored', (t) => {
  const { core, talk } = pair();
  tick(talk.at(1000));
  talk.saysAll(SMALL_ROUND, RESET, { kind: 'probed', result: 'refused' });
  const { epoch } = core;
  t.deepEqual(talk.says(captured(8, 1_000_000)), []);
  t.is(core.epoch, epoch);
});

test('epochs of a session that ended never come again', (t) => {
  const { core, talk } = pair();
  const seen = new Set([7, 8, 9]);
  for (let round = 0; round < 5; round += 1) {
    talk.saysAll({ kind: 'peerUnfit', reason: 'QEMU' });
    t.false(seen.has(core.epoch));
    seen.add(core.epoch).add(core.epoch + 1);
    talk.at(10_000 * (round + 1)).saysAll(...CONNECT);
    if (round % 2 === 0) talk.saysAll(SMALL_ROUND, captured(core.epoch, talk.nowUs));
  }
});

test('an unfit secondary is tried again later', (t) => {
  const { talk } = pair();
  t.deepEqual(talk.says({ kind: 'peerUnfit', reason: 'QEMU' }), [
    'runAlone QEMU',
    'checkpointFailed QEMU',
  ]);
  t.deepEqual(tick(talk.at(999)), []);
  t.deepEqual(tick(talk.at(1000)), ['connect']);
});

test('a failed capture leaves the primary alone', (t) => {
  const { talk } = pair();
  t.deepEqual(talk.says({ kind: 'captureFailed', reason: 'QMP' }), ['endSession', 'probe']);
  t.regex(talk.says({ kind: 'probed', result: 'alive' })[0] ?? '', /^runAlone .*QMP/);
});

test('nothing is released while the secondary holds a state that it might take over from', (t) => {
  const { talk } = pair();
  talk.saysAll({ kind: 'captureFailed', reason: 'QMP' });
  t.deepEqual(talk.says({ kind: 'probed', result: 'holding' }), []);
  t.deepEqual(tick(talk.at(50)), ['probe']);
  t.regex(talk.says({ kind: 'probed', result: 'refused' })[0] ?? '', /^runAlone /);
});

const HANDED_OVER = 'The guest goes on at the peer, as asked';

test('a primary yields after a last checkpoint, silent before it says so', (t) => {
  const { core, talk } = pair({ mode: 'colo' });
  t.deepEqual(talk.at(100).says({ kind: 'takeoverRequested' }), ['presendRound 8']);
  // What the SVM executes after it must be said by the SVM from its beginning.
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 switchover false']);
  talk.says(captured(8, 100_000));
  t.deepEqual(talk.says({ kind: 'committed', epoch: 8 }), [
    'release 8',
    'checkpointDone 8 switchover',
  ]);
  // It may be applied before its output has left: nothing more begins, nothing is due but beats.
  talk.says({ kind: 'applied', epoch: 8 });
  t.deepEqual(tick(talk.at(5000)), []);
  t.true((core.deadlineUs() ?? 0) > 5_000_000);
  t.deepEqual(talk.says({ kind: 'released', epoch: 8 }), [
    'silence',
    'sendYielded',
    `checkpointFailed ${HANDED_OVER}`,
    `demote ${HANDED_OVER}`,
  ]);
  t.is(core.state.kind, 'left');
  t.is(core.deadlineUs(), undefined);
});

test('a checkpoint that lets the SVM execute is followed by one for the switch-over', (t) => {
  const { talk } = pair({ mode: 'colo' });
  talk.at(1000).says({ kind: 'tick' });
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 period true']);
  t.deepEqual(talk.says({ kind: 'switchoverRequested' }), []);
  talk.says(captured(8, 1_000_000));
  t.deepEqual(talk.says({ kind: 'committed', epoch: 8 }), ['release 8', 'checkpointDone 8 period']);
  t.deepEqual(talk.says({ kind: 'applied', epoch: 8 }), ['startCompare 9']);
  t.deepEqual(tick(talk.at(1100)), ['presendRound 9']);
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 9 switchover false']);
  talk.saysAll(captured(9, 1_100_000), { kind: 'committed', epoch: 9 });
  const said = talk.says({ kind: 'released', epoch: 9 });
  t.true(said.includes(`sendGoodbye handover ${HANDED_OVER}`));
});

test('a switch-over that finds no secondary any more is over with the session', (t) => {
  const { talk } = pair();
  talk.at(100).says({ kind: 'switchoverRequested' });
  talk.says({ kind: 'peerUnfit', reason: 'Unfit' });
  talk.saysAll(...CONNECT, SMALL_ROUND, captured(10, 0));
  talk.says({ kind: 'committed', epoch: 10 });
  t.deepEqual(talk.says({ kind: 'released', epoch: 10 }), []);
});

test('each end of the guest has its goodbye, after the silence', (t) => {
  for (const goodbye of ['handover', 'guest-off'] as const) {
    const { talk } = pair();
    t.deepEqual(talk.says({ kind: 'guestEnded', goodbye, reason: 'End' }), [
      'silence',
      `sendGoodbye ${goodbye} End`,
      'checkpointFailed End',
      goodbye === 'handover' ? 'demote End' : 'exit 0 End',
    ]);
  }
  // Without a secondary that has it, the guest's death is this host's failure.
  const alone = start().talk.says({ kind: 'guestEnded', goodbye: 'handover', reason: 'End' });
  t.is(alone.at(-1), 'exit 1 End');
});

test('an operator who stops a primary hands over without loss; alone there is nobody to tell', (t) => {
  const { talk } = pair();
  t.deepEqual(talk.at(100).says({ kind: 'stopRequested', reason: 'Stop' }), ['presendRound 8']);
  talk.saysAll(SMALL_ROUND, captured(8, 100_000), { kind: 'committed', epoch: 8 });
  t.deepEqual(talk.says({ kind: 'released', epoch: 8 }), [
    'silence',
    'sendGoodbye handover Stop',
    'checkpointFailed Stop',
    'exit 0 Stop',
  ]);
  const alone = start().talk;
  t.deepEqual(alone.says({ kind: 'stopRequested', reason: 'Stop' }), [
    'silence',
    'checkpointFailed Stop',
    'exit 0 Stop',
  ]);
});

test('a stop does not wait for a checkpoint for ever, nor for a lost peer, nor twice', (t) => {
  const left = ['silence', 'sendGoodbye handover Stop', 'checkpointFailed Stop', 'exit 0 Stop'];
  const late = pair().talk;
  late.at(100).says({ kind: 'stopRequested', reason: 'Stop' });
  t.deepEqual(tick(late.at(5100)), left);
  const twice = pair().talk;
  twice.at(100).says({ kind: 'stopRequested', reason: 'Stop' });
  t.deepEqual(twice.says({ kind: 'stopRequested', reason: 'Stop' }), left);
  const lost = pair().talk;
  lost.at(100).says({ kind: 'stopRequested', reason: 'Stop' });
  t.deepEqual(lost.says({ kind: 'peerUnfit', reason: 'Unfit' }), left);
});

test('a failed disk hands over while protected, and only then', (t) => {
  const failure = { kind: 'diskFailed', reason: 'EIO' } as const;
  t.is(pair().talk.says(failure)[1], 'sendGoodbye handover EIO');
  t.deepEqual(start().talk.says(failure), []);
  const synchronising = start();
  synchronising.talk.saysAll(...CONNECT);
  t.deepEqual(synchronising.talk.says(failure), []);
  const suspecting = pair();
  suspecting.talk.says(RESET);
  t.deepEqual(suspecting.talk.says(failure), []);
});

test('a node that has left answers nothing', (t) => {
  const { talk } = pair();
  talk.says({ kind: 'guestEnded', goodbye: 'guest-off', reason: 'Off' });
  t.deepEqual(talk.saysAll(RESET, { kind: 'committed', epoch: 8 }, { kind: 'tick' }), []);
});

test('mode colo lets the SVM execute, and compares once the checkpoint is applied', (t) => {
  const { talk } = start({ mode: 'colo' });
  talk.saysAll(...CONNECT);
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 7 sync true']);
  talk.saysAll(captured(7, 0), { kind: 'committed', epoch: 7 });
  t.deepEqual(talk.says({ kind: 'applied', epoch: 7 }), ['startCompare 8']);
});

test('a divergence begins a checkpoint as soon as the least interval allows', (t) => {
  const { talk } = pair({ mode: 'colo' });
  const diverged = { kind: 'checkpointRequested', trigger: 'divergence', epoch: 8 } as const;
  t.deepEqual(talk.at(30).says(diverged), []);
  t.deepEqual(tick(talk.at(100)), ['presendRound 8']);
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 divergence true']);
});

test('what was asked about an epoch that is over is void', (t) => {
  const { talk } = pair({ mode: 'colo' });
  const diverged = { kind: 'checkpointRequested', trigger: 'divergence', epoch: 8 } as const;
  tick(talk.at(1000));
  // While the checkpoint that ends epoch 8 is being made, and after it.
  talk.saysAll(diverged, SMALL_ROUND, diverged, captured(8, 1_000_000), diverged);
  talk.saysAll({ kind: 'committed', epoch: 8 }, { kind: 'applied', epoch: 8 });
  t.deepEqual(tick(talk.at(1999)), []);
  t.deepEqual(tick(talk.at(2000)), ['presendRound 9']);
});

test('a change of the mode takes effect with a checkpoint of its own', (t) => {
  const { core, talk } = pair();
  t.deepEqual(talk.at(200).says({ kind: 'modeChanged', mode: 'colo' }), ['presendRound 8']);
  t.is(core.pace.mode, 'colo');
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 mode true']);
  t.deepEqual(talk.says({ kind: 'modeChanged', mode: 'colo' }), []);
});

test('alone, the mode changes at once', (t) => {
  const { core, talk } = start();
  t.deepEqual(talk.says({ kind: 'modeChanged', mode: 'colo' }), []);
  t.is(core.pace.mode, 'colo');
});

const DETACH = { kind: 'partingRequested', goodbye: 'detach' } as const;
const LET_GO = { kind: 'peerUnfit', reason: 'Said' } as const;
const DETACHED = 'Detached, as asked: "colo attach" ends it';

test('detached, it says goodbye, runs alone when the secondary has let go, and looks for none', (t) => {
  const { core, talk } = pair();
  t.deepEqual(talk.says(DETACH), [`sendGoodbye detach ${DETACHED}`]);
  t.deepEqual(talk.says(LET_GO), [
    `runAlone ${DETACHED}`,
    `checkpointFailed ${DETACHED}`,
    'parted',
  ]);
  t.true(core.isDetached);
  t.is(core.deadlineUs(), undefined);
  talk.nowUs += 100_000_000;
  t.deepEqual(tick(talk), []);
  t.deepEqual(talk.says({ kind: 'attachRequested' }), []);
  t.deepEqual(tick(talk), ['connect']);
});

test('a checkpoint that is under way is finished before the goodbye, and none begins after it', (t) => {
  const { talk } = pair();
  talk.nowUs = 1_000_000;
  t.deepEqual(tick(talk), ['presendRound 8']);
  t.deepEqual(talk.says(DETACH), []);
  t.deepEqual(talk.says(SMALL_ROUND), ['capture 8 period false']);
  talk.saysAll(captured(8, 1_000_000), { kind: 'committed', epoch: 8 });
  t.deepEqual(talk.says({ kind: 'applied', epoch: 8 }), [`sendGoodbye detach ${DETACHED}`]);
  talk.nowUs = 2_500_000;
  t.deepEqual(talk.says({ kind: 'checkpointRequested', trigger: 'operator' }), []);
});

test('a secondary that does not answer the goodbye is asked what it has', (t) => {
  const { talk } = pair();
  talk.says(DETACH);
  talk.nowUs = 10_000_000;
  t.deepEqual(tick(talk), ['endSession', 'probe']);
  t.is(talk.says({ kind: 'probed', result: 'alive' }).at(-1), 'parted');
});

test('without a secondary it is detached at once, also while it connects', (t) => {
  const { core, talk } = start();
  t.deepEqual(talk.says(DETACH), ['parted']);
  t.deepEqual(tick(talk), []);
  const other = start();
  t.deepEqual(tick(other.talk), ['connect']);
  t.deepEqual(other.talk.says(DETACH), []);
  t.deepEqual(other.talk.says({ kind: 'peerConnected' }), [`sendGoodbye detach ${DETACHED}`]);
  t.is(core.state.kind, 'alone');
});

test('a secondary that was stopped is looked for again', (t) => {
  const { core, talk } = pair();
  t.regex(talk.says({ kind: 'partingRequested', goodbye: 'stop' })[0] ?? '', /^sendGoodbye stop/);
  t.is(talk.says(LET_GO).at(-1), 'parted');
  t.false(core.isDetached);
  talk.nowUs += 10_000_000;
  t.deepEqual(tick(talk), ['connect']);
});

test('who hands the guest over can not be detached, nor the other way round', (t) => {
  const { core, talk } = pair();
  talk.says({ kind: 'switchoverRequested' });
  t.deepEqual(talk.says(DETACH), []);
  t.false(core.isDetached);
  const other = pair();
  other.talk.says(DETACH);
  t.deepEqual(other.talk.says({ kind: 'switchoverRequested' }), [`checkpointFailed ${DETACHED}`]);
});

const BROKE = { kind: 'interrupted', reason: 'Reset' } as const;

test('an interrupted session that goes on has lost nothing, and what waited begins', (t) => {
  const { core, talk } = pair();
  t.deepEqual(talk.at(990).says(BROKE), ['probe']);
  t.deepEqual(talk.says({ kind: 'probed', result: 'holding' }), []);
  t.deepEqual(tick(talk.at(1000)), ['probe']);
  t.deepEqual(talk.at(1100).says({ kind: 'resumed' }), ['presendRound 8']);
  t.true(core.isProtected);
  t.is(core.epoch, 8);
});

test('heartbeats go on while a session is interrupted, not once it is over', (t) => {
  const { talk } = pair();
  talk.at(100).says({ kind: 'tick' });
  talk.saysAll(BROKE, { kind: 'probed', result: 'holding' });
  t.true(talk.at(200).says({ kind: 'tick' }).includes('heartbeat true'));
  talk.saysAll({ kind: 'probed', result: 'holding' }, RESET, { kind: 'probed', result: 'holding' });
  t.false(
    talk
      .at(300)
      .says({ kind: 'tick' })
      .some((line) => line.startsWith('heartbeat')),
  );
});

test('an interrupted session whose secondary is dead ends as fast as a lost one', (t) => {
  const { talk } = pair();
  talk.says(BROKE);
  t.regex(
    talk.says({ kind: 'probed', result: 'refused' })[0] ?? '',
    /^runAlone Secondary lost: Reset/,
  );
});

test('an interrupted session that can not be resumed is asked about like a lost one', (t) => {
  const { talk } = pair();
  talk.saysAll(BROKE, { kind: 'probed', result: 'alive' });
  t.deepEqual(talk.says({ kind: 'linkLost', reason: 'Not resumed' }), ['probe']);
  t.regex(talk.says({ kind: 'probed', result: 'alive' })[0] ?? '', /^runAlone Secondary abandoned/);
});

test('a switch-over whose last output leaves during an interruption is finished after it', (t) => {
  const { core, talk } = pair();
  talk.at(200).says({ kind: 'switchoverRequested' });
  talk.saysAll(SMALL_ROUND, captured(8, 200_000), { kind: 'committed', epoch: 8 });
  talk.says(BROKE);
  t.deepEqual(talk.says({ kind: 'released', epoch: 8 }), []);
  t.true(talk.says({ kind: 'resumed' })[0]?.startsWith('silence'));
  t.is(core.state.kind, 'left');
});
