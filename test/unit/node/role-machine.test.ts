import test from 'ava';
import { type NodeInput, type NodeOutput, RoleMachine } from '../../../src/node/index.js';

const START: NodeInput = { kind: 'started', role: 'primary' };
const ALONE: NodeInput = { kind: 'answered', answer: 'refused' };

function after(...inputs: NodeInput[]): { machine: RoleMachine; outputs: NodeOutput[] } {
  return stepped(new RoleMachine({ hasWitness: false }), inputs);
}

function stepped(
  machine: RoleMachine,
  inputs: readonly NodeInput[],
): { machine: RoleMachine; outputs: NodeOutput[] } {
  let outputs: NodeOutput[] = [];
  for (const input of inputs) outputs = machine.step(input);
  return { machine, outputs };
}

test('a node that is configured as the secondary is one at once', (t) => {
  const { machine, outputs } = after({ kind: 'started', role: 'secondary' });
  t.deepEqual(outputs, [{ kind: 'beSecondary' }]);
  t.is(machine.state, 'secondary');
});

test('one that is configured as the primary asks first', (t) => {
  const { machine, outputs } = after(START);
  t.deepEqual(outputs, [{ kind: 'ask', again: false }]);
  t.is(machine.state, 'joining');
});

test('a guest that runs at the peer is not started again', (t) => {
  const { outputs } = after(START, { kind: 'answered', answer: 'serving' });
  t.deepEqual(outputs, [{ kind: 'beSecondary' }]);
});

test('a peer that holds a state is asked until it has decided', (t) => {
  const { machine, outputs } = after(START, { kind: 'answered', answer: 'holding' });
  t.deepEqual(outputs, [{ kind: 'ask', again: true }]);
  t.deepEqual(machine.step({ kind: 'answered', answer: 'serving' }), [{ kind: 'beSecondary' }]);
});

for (const answer of ['alive', 'replaced', 'refused', 'unreachable', 'silent'] as const) {
  test(`a peer that is ${answer} is no obstacle`, (t) => {
    const { machine, outputs } = after(START, { kind: 'answered', answer });
    t.deepEqual(outputs, [{ kind: 'boot' }]);
    t.is(machine.state, 'primary');
  });
}

test('roles alternate', (t) => {
  const { machine } = after(START, ALONE);
  for (let round = 0; round < 3; round++) {
    t.deepEqual(machine.step({ kind: 'ended', end: 'demoted' }), [{ kind: 'beSecondary' }]);
    t.is(machine.state, 'secondary');
    t.deepEqual(machine.step({ kind: 'ended', end: 'promoted' }), [{ kind: 'goOn' }]);
    t.is(machine.state, 'primary');
  }
  t.deepEqual(machine.step({ kind: 'ended', end: 'left' }), [{ kind: 'leave' }]);
  t.is(machine.state, 'left');
});

test('a stop ends a join at once, and a role in its own time', (t) => {
  t.deepEqual(after(START, { kind: 'stopRequested' }).outputs, [{ kind: 'leave' }]);
  const { machine, outputs } = after(START, ALONE, { kind: 'stopRequested' });
  t.deepEqual(outputs, [{ kind: 'stopRole' }]);
  t.is(machine.state, 'primary');
});

const ILLEGAL: readonly (readonly [string, readonly NodeInput[]])[] = [
  ['a second start', [START, START]],
  ['an answer that nobody has asked for', [START, ALONE, ALONE]],
  ['the end of a role before there is one', [START, { kind: 'ended', end: 'left' }]],
  ['the promotion of a primary', [START, ALONE, { kind: 'ended', end: 'promoted' }]],
  [
    'the demotion of a secondary',
    [
      { kind: 'started', role: 'secondary' },
      { kind: 'ended', end: 'demoted' },
    ],
  ],
  [
    'a stop of what has ended',
    [START, ALONE, { kind: 'ended', end: 'left' }, { kind: 'stopRequested' }],
  ],
];

for (const [what, inputs] of ILLEGAL) {
  test(`${what} is refused and changes nothing`, (t) => {
    const { state } = after(...inputs.slice(0, -1)).machine;
    const { machine, outputs } = after(...inputs);
    t.is(machine.state, state);
    t.is(outputs[0]?.kind, 'refused');
    t.is(outputs.length, 1);
  });
}

test('with a witness a guest is started once that allows it', (t) => {
  const none = { kind: 'witnessed', answer: 'none' } as const;
  for (const [answer, output] of [
    ['granted', 'boot'],
    ['fenced', 'beSecondary'],
  ] as const) {
    const { machine, outputs } = stepped(new RoleMachine({ hasWitness: true }), [START, ALONE]);
    t.deepEqual(outputs, [{ kind: 'askWitness' }]);
    t.deepEqual(machine.step(none), [{ kind: 'ask', again: true }]);
    t.deepEqual(machine.step(ALONE), [{ kind: 'askWitness' }]);
    t.deepEqual(machine.step({ kind: 'witnessed', answer }), [{ kind: output }]);
    t.is(machine.step(none)[0]?.kind, 'refused');
  }
});

test('a guest that runs at the peer is not started, whatever the witness would say', (t) => {
  const machine = new RoleMachine({ hasWitness: true });
  const { outputs } = stepped(machine, [START, { kind: 'answered', answer: 'serving' }]);
  t.deepEqual(outputs, [{ kind: 'beSecondary' }]);
});
