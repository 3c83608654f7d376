import test from 'ava';
import { type NodeInput, type NodeOutput, RoleMachine } from '../../../src/node/index.js';

const START: NodeInput = { kind: 'started', role: 'primary', standing: 'none', departed: false };
const ALONE: NodeInput = { kind: 'answered', answer: 'refused' };

const PEER_HOLDS = 'The peer has a state of the guest and may take over';

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
  const { machine, outputs } = after({
    kind: 'started',
    role: 'secondary',
    standing: 'none',
    departed: false,
  });
  t.deepEqual(outputs, [{ kind: 'beSecondary' }]);
  t.is(machine.state, 'secondary');
});

test('one that is configured as the primary asks first', (t) => {
  const { machine, outputs } = after(START);
  t.deepEqual(outputs, [{ kind: 'ask', waitsFor: undefined }]);
  t.is(machine.state, 'joining');
});

test('a guest that runs at the peer is not started again', (t) => {
  const { outputs } = after(START, { kind: 'answered', answer: 'serving' });
  t.deepEqual(outputs, [{ kind: 'beSecondary' }]);
});

test('a peer that holds a state is asked until it has decided', (t) => {
  const { machine, outputs } = after(START, { kind: 'answered', answer: 'holding' });
  t.is(outputs[0]?.kind, 'ask');
  t.deepEqual(machine.step({ kind: 'answered', answer: 'serving' }), [{ kind: 'beSecondary' }]);
});

for (const answer of ['silent', 'unreachable'] as const) {
  test(`a peer that holds a state and is ${answer} then may go on with it`, (t) => {
    const inputs: NodeInput[] = [START, { kind: 'answered', answer: 'holding' }];
    const { machine, outputs } = after(...inputs, { kind: 'answered', answer });
    t.deepEqual(outputs, [{ kind: 'ask', waitsFor: PEER_HOLDS }]);
    t.deepEqual(machine.step({ kind: 'answered', answer: 'refused' }), [{ kind: 'boot' }]);
  });
}

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
      { kind: 'started', role: 'secondary', standing: 'none', departed: false },
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

test('with a witness a guest is started once that allows it, whatever its images say', (t) => {
  const none = { kind: 'witnessed', answer: 'none' } as const;
  for (const [answer, output] of [
    ['granted', 'boot'],
    ['fenced', 'beSecondary'],
  ] as const) {
    const start: NodeInput = {
      kind: 'started',
      role: 'primary',
      standing: 'following',
      departed: false,
    };
    const { machine, outputs } = stepped(new RoleMachine({ hasWitness: true }), [start, ALONE]);
    t.deepEqual(outputs, [{ kind: 'askWitness' }]);
    const [again] = machine.step(none);
    t.regex(String(again?.kind === 'ask' && again.waitsFor), /^The witness has not allowed/);
    t.deepEqual(machine.step(ALONE), [{ kind: 'askWitness' }]);
    t.deepEqual(machine.step({ kind: 'witnessed', answer }), [{ kind: output }]);
    t.is(machine.step(none)[0]?.kind, 'refused');
  }
});

test('which of two hosts that had each other as peers went on is for the witness to say', (t) => {
  const start: NodeInput = { kind: 'started', role: 'primary', standing: 'following' };
  for (const [answer, output] of [
    ['shared', 'askWitness'],
    ['following', 'askWitness'],
    ['leading', 'ask'],
  ] as const) {
    const inputs: NodeInput[] = [start, { kind: 'answered', answer }];
    const { outputs } = stepped(new RoleMachine({ hasWitness: true }), inputs);
    t.is(outputs[0]?.kind, output, answer);
  }
});

test('a guest that runs at the peer is not started, whatever the witness would say', (t) => {
  const machine = new RoleMachine({ hasWitness: true });
  const { outputs } = stepped(machine, [START, { kind: 'answered', answer: 'serving' }]);
  t.deepEqual(outputs, [{ kind: 'beSecondary' }]);
});

test('who may have old data waits for a peer that does not answer, or for the operator', (t) => {
  for (const standing of ['shared', 'following'] as const) {
    for (const answer of ['refused', 'unreachable', 'silent'] as const) {
      const start: NodeInput = { kind: 'started', role: 'primary', standing, departed: false };
      const { machine, outputs } = after(start, { kind: 'answered', answer });
      t.regex(String(outputs[0]?.kind === 'ask' && outputs[0].waitsFor), /colo failover --force/);
      t.deepEqual(machine.step({ kind: 'forced' }), [{ kind: 'boot' }]);
      t.is(machine.step({ kind: 'forced' })[0]?.kind, 'refused');
    }
    const { outputs } = after(
      { kind: 'started', role: 'primary', standing, departed: false },
      { kind: 'answered', answer: 'alive' },
    );
    t.deepEqual(outputs, [{ kind: 'boot' }], 'a peer that has nothing can not go on with it');
  }
});

test('who had the guest alone last boots it', (t) => {
  const start: NodeInput = {
    kind: 'started',
    role: 'primary',
    standing: 'leading',
    departed: false,
  };
  t.deepEqual(after(start, { kind: 'answered', answer: 'refused' }).outputs, [{ kind: 'boot' }]);
});

test('images that say the peer may have more are not booted from', (t) => {
  const order = ['none', 'following', 'shared', 'leading'] as const;
  for (const [own, standing] of order.entries()) {
    for (const [theirs, answer] of order.entries()) {
      if (answer === 'none') continue;
      const start: NodeInput = { kind: 'started', role: 'primary', standing, departed: false };
      const [output] = after(start, { kind: 'answered', answer }).outputs;
      t.is(output?.kind, own > theirs ? 'boot' : 'ask', `${standing}, and the peer ${answer}`);
      if (output?.kind === 'ask') t.regex(String(output.waitsFor), /may be newer/);
    }
  }
});

const RAN_HERE: NodeInput = {
  kind: 'started',
  role: 'secondary',
  standing: 'leading',
  knowsMachine: true,
};

test('a secondary where the guest ran last asks its peer, and boots it if nobody has it', (t) => {
  t.deepEqual(after(RAN_HERE).outputs, [{ kind: 'ask', waitsFor: undefined }]);
  for (const answer of [
    'refused',
    'unreachable',
    'silent',
    'alive',
    'following',
    'shared',
  ] as const) {
    t.deepEqual(after(RAN_HERE, { kind: 'answered', answer }).outputs, [{ kind: 'boot' }], answer);
  }
  const serving: NodeInput = { kind: 'answered', answer: 'serving' };
  t.deepEqual(after(RAN_HERE, serving).outputs, [{ kind: 'beSecondary' }]);
  for (const answer of ['holding', 'leading'] as const) {
    t.is(after(RAN_HERE, { kind: 'answered', answer }).outputs[0]?.kind, 'ask', answer);
  }
});

test('a secondary that shared the guest waits for a peer that may have gone on with it', (t) => {
  const start: NodeInput = { ...RAN_HERE, standing: 'shared' };
  t.is(after(start, { kind: 'answered', answer: 'refused' }).outputs[0]?.kind, 'ask');
  t.is(after(start, { kind: 'answered', answer: 'following' }).outputs[0]?.kind, 'boot');
});

test('a secondary that has less, or does not know the machine, is one at once', (t) => {
  for (const standing of ['none', 'following'] as const) {
    t.deepEqual(after({ ...RAN_HERE, standing }).outputs, [{ kind: 'beSecondary' }]);
  }
  t.deepEqual(after({ ...RAN_HERE, knowsMachine: false }).outputs, [{ kind: 'beSecondary' }]);
});

test('with a witness it decides for a secondary, too', (t) => {
  const machine = new RoleMachine({ hasWitness: true });
  t.deepEqual(stepped(machine, [RAN_HERE, ALONE]).outputs, [{ kind: 'askWitness' }]);
});

test('an operator who insists ends a secondary that waits, and the guest is booted there', (t) => {
  const start: NodeInput = { kind: 'started', role: 'secondary', standing: 'following' };
  const { machine, outputs } = after(start, { kind: 'forced' });
  t.deepEqual(outputs, [{ kind: 'stopRole' }]);
  t.deepEqual(machine.step({ kind: 'ended', end: 'left' }), [{ kind: 'boot' }]);
  t.is(machine.state, 'primary');
});

test('a stop that comes meanwhile ends the node', (t) => {
  const start: NodeInput = { kind: 'started', role: 'secondary', standing: 'following' };
  const { machine } = after(start, { kind: 'forced' }, { kind: 'stopRequested' });
  t.deepEqual(machine.step({ kind: 'ended', end: 'left' }), [{ kind: 'leave' }]);
});

for (const hasWitness of [false, true]) {
  for (const answer of ['alive', 'refused', 'unreachable', 'following'] as const) {
    test(`a guest that was moved away is not booted, peer ${answer}, witness ${hasWitness}`, (t) => {
      const { machine, outputs } = stepped(new RoleMachine({ hasWitness }), [
        { kind: 'started', role: 'primary', standing: 'following', departed: true },
        { kind: 'answered', answer },
      ]);
      t.is(outputs[0]?.kind, 'ask');
      t.is(machine.state, 'joining');
      t.deepEqual(machine.step({ kind: 'forced' }), [{ kind: 'boot' }]);
    });
  }
}

test('a guest that was moved away is followed where it runs', (t) => {
  const started: NodeInput = {
    ...{ kind: 'started', role: 'primary', standing: 'following' },
    departed: true,
  };
  const { outputs } = after(started, { kind: 'answered', answer: 'serving' });
  t.deepEqual(outputs, [{ kind: 'beSecondary' }]);
});
