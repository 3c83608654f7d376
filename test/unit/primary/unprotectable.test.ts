import test from 'ava';
import { PartingCommands } from '../../../src/primary/parting-commands-shell.js';
import { PrimaryCore, type PrimaryInput } from '../../../src/primary/primary-core.js';

const OPTIONS = {
  ...{
    mode: 'colo' as const,
    period: 1_000_000,
    minIntervalUs: 100_000,
    peerTimeoutUs: 60_000_000,
  },
  ...{ holdLimitUs: 15_000_000, heartbeatUs: 50_000, hasWitness: false, firstEpoch: 7 },
};

function begin(unprotectable: string | undefined) {
  const core = new PrimaryCore(OPTIONS);
  const outputs: string[] = [];
  const input = (what: PrimaryInput): void => {
    outputs.push(...core.step(what, 0).map(({ kind }) => kind));
  };
  const commands = new PartingCommands(core, input, unprotectable);
  commands.begin();
  return { core, commands, outputs };
}

test('no secondary is looked for where none can follow, whatever an operator asks', (t) => {
  const { core, commands, outputs } = begin('Its disk is shared');
  t.false(outputs.includes('connect'));
  t.is(core.deadlineUs(), undefined);
  t.deepEqual(commands.attach(), {
    ...{ ok: false, code: 'COLO_E_ROLE', reason: 'Its disk is shared' },
  });
  t.true(core.isDetached);
});

test('else one is looked for at once', (t) => {
  t.true(begin(undefined).outputs.includes('connect'));
});
