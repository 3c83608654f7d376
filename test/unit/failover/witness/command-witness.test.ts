import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { ANY_TOKEN, openWitness, type Witness } from '../../../../src/failover/index.js';
import { readCommandOutput } from '../../../../src/failover/witness/command-output.js';
import { temporaryFolder } from '../../../support/temporary.js';

const EXAMPLE = fileURLToPath(
  new URL('../../../../../packaging/examples/witness-ipmi', import.meta.url),
);
const asked = { askedAtUs: 77, ttlUs: 5_000_000 };
const ask = { purpose: 'alone', knownToken: 4 } as const;

function script(folder: string, name: string, lines: string): string {
  const path = join(folder, name);
  writeFileSync(path, `#!/bin/sh\n${lines}\n`);
  chmodSync(path, 0o755);
  return path;
}

function open(command: string, timeoutUs = 20_000_000): Witness {
  return openWitness({
    identity: { vm: 'web', host: 'host-a', role: 'secondary', instance: 'i1' },
    setting: { kind: 'command', command },
    ttlUs: 5_000_000,
    timeoutUs,
  }) as Witness;
}

function witnessOf(t: ExecutionContext, lines: string): Witness {
  return open(script(temporaryFolder(t), 'witness', lines));
}

test('exit codes and lines have their meaning', (t) => {
  const read = (exitCode: number, stdout: string) =>
    readCommandOutput({ exitCode, stdout, stderr: 'first\nlast\n' }, asked);
  t.deepEqual(read(0, 'hello\ntoken=8\n'), { kind: 'granted', token: 8, ...asked });
  t.like(read(0, 'ttl=60000\ntoken=8'), { kind: 'granted', ttlUs: 60_000_000 });
  t.deepEqual(read(1, ''), { kind: 'denied', holder: 'another', stale: false });
  t.deepEqual(read(1, 'holder=b\nstale=yes'), { kind: 'denied', holder: 'b', stale: true });
  t.deepEqual(read(75, 'token=8'), {
    kind: 'unreachable',
    reason: 'The command ended with 75: last',
  });
  for (const out of ['', 'token=', 'token=0', 'token=-1', 'token=1e3', 'token=99999999999999999']) {
    t.is(read(0, out).kind, 'unreachable', out);
  }
  for (const ttl of ['0', '999', '3600001', 'x']) {
    t.is(read(0, `token=1\nttl=${ttl}`).kind, 'unreachable', ttl);
  }
});

test('arguments and environment are as documented; what holds a grant renews it', async (t) => {
  const folder = temporaryFolder(t);
  const log = join(folder, 'log');
  const names = ['INSTANCE', 'ROLE', 'TTL_MS', 'TIMEOUT_MS', 'PURPOSE', 'KNOWN_TOKEN'];
  const values = names.map((name) => `$COLO_WITNESS_${name}`).join(' ');
  const witness = open(script(folder, 'witness', `echo "$@ ${values}" >> ${log}; echo token=9`));
  t.like(await witness.ask(ask), { kind: 'granted', token: 9, ttlUs: 5_000_000 });
  await witness.ask({ purpose: 'insure', knownToken: ANY_TOKEN });
  await witness.release();
  await witness.ask(ask);
  t.deepEqual(
    readFileSync(log, 'utf8')
      .trim()
      .split('\n')
      .map((line) => line.trim()),
    [
      'acquire web host-a i1 secondary 5000 20000 alone 4',
      'renew web host-a i1 secondary 5000 20000 insure any',
      'release web host-a i1 secondary 5000 20000',
      'acquire web host-a i1 secondary 5000 20000 alone 4',
    ],
  );
});

test('a command that hangs is ended with all that it started, and grants nothing', async (t) => {
  const folder = temporaryFolder(t);
  const pids = join(folder, 'pids');
  const path = script(folder, 'witness', `sleep 600 & echo $! > ${pids}; echo token=5; wait`);
  const witness = open(path, 1_500_000);
  t.deepEqual(await witness.ask(ask), {
    kind: 'unreachable',
    reason: 'No answer within 1500 ms',
  });
  const pid = Number(readFileSync(pids, 'utf8'));
  // Nobody may have reaped it yet; what counts is that it does not run for long.
  const deadlineMs = performance.now() + 20_000;
  while (!/^[ZX]?$/.test(stateOf(pid)) && performance.now() < deadlineMs) await delay(5);
  t.regex(stateOf(pid), /^[ZX]?$/);
});

function stateOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.[0] ?? '';
  } catch {
    return '';
  }
}

test('a command that is missing, dies or never ends its speech is unreachable', async (t) => {
  t.is((await open('/no/such/witness').ask(ask)).kind, 'unreachable');
  t.is((await witnessOf(t, 'kill -9 $$').ask(ask)).kind, 'unreachable');
  t.deepEqual(await witnessOf(t, 'yes').ask(ask), {
    kind: 'unreachable',
    reason: 'The command says too much',
  });
});

/** The example with an `ipmitool` that knows one machine. */
function example(t: ExecutionContext): { witness: Witness; power(state?: string): string } {
  const folder = temporaryFolder(t);
  const state = join(folder, 'power');
  writeFileSync(state, 'on');
  const tool = [
    'for last in "$@"; do :; done',
    `case $last in`,
    `  off) [ "$(cat ${state})" = stuck ] || echo off > ${state} ;;`,
    `  status) echo "Chassis Power is $(cat ${state})" ;;`,
    'esac',
  ].join('\n');
  script(folder, 'ipmitool', tool);
  const settings = `PATH=${folder}:$PATH BMC=10.0.0.9 STATE=${folder} TRIES=2`;
  const path = script(folder, 'witness', `export ${settings}\nexec ${EXAMPLE} "$@"`);
  const power = (next?: string): string => {
    if (next !== undefined) writeFileSync(state, next);
    return readFileSync(state, 'utf8').trim();
  };
  return { witness: open(path), power };
}

test('the example cuts the power of the peer before it grants to go alone', async (t) => {
  const { witness, power } = example(t);
  t.is((await witness.ask({ purpose: 'insure', knownToken: 4 })).kind, 'unreachable');
  t.is(power(), 'on');
  t.like(await witness.ask(ask), { kind: 'granted', token: 5 });
  t.is(power(), 'off');
  t.like(await witness.ask({ purpose: 'insure', knownToken: 5 }), { kind: 'granted', token: 6 });
});

test('the example grants nothing while the power is not known to be off', async (t) => {
  const { witness, power } = example(t);
  power('stuck');
  t.is((await witness.ask(ask)).kind, 'unreachable');
});
