import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type Hello, REPLICATION_VERSION } from '../../../src/replication/index.js';
import { readMachine, saveMachine } from '../../../src/secondary/index.js';
import { resolveSecondary } from '../../support/configuration.js';
import { temporaryFolder } from '../../support/temporary.js';

const HELLO: Hello = {
  version: REPLICATION_VERSION,
  vm: 'web',
  host: 'hosta',
  epoch: 7,
  definition: { name: 'web', memoryMib: 256 },
  images: [],
  qemuVersion: '7.2.22',
  accelerator: 'tcg',
  pageSizeBytes: 4096,
  dirtyTracker: 'userfaultfd',
  port: 7800,
  instance: 'ab'.repeat(16),
  policy: {
    mode: 'colo',
    minIntervalUs: 100_000,
    compareTimeoutUs: 200_000,
    verify: false,
    onGuestPanic: 'reset',
  },
  kernelSha256: null,
  initrdSha256: 'cd'.repeat(32),
  speech: { key: 'ef'.repeat(16), session: 1, token: 2, ports: [4000] },
};
const MACHINE = { hello: HELLO, peer: '10.0.0.1' };

function places(t: ExecutionContext) {
  const stateDir = join(temporaryFolder(t), 'state');
  mkdirSync(stateDir);
  const configuration = resolveSecondary(['--vm', 'web', '--state-dir', stateDir]);
  return { configuration, path: join(stateDir, 'web.machine') };
}

test('what is saved is read again, without the keys of the session', async (t) => {
  const { configuration, path } = places(t);
  t.is(await readMachine(configuration), undefined);
  await saveMachine(configuration, MACHINE);
  t.deepEqual(await readMachine(configuration), { ...MACHINE, hello: { ...HELLO, speech: null } });
  t.is(statSync(path).mode & 0o777, 0o600);
  t.false(readFileSync(path, 'utf8').includes(HELLO.speech?.key ?? ''));
});

test('a file with any byte changed, or cut anywhere, is no machine', async (t) => {
  const { configuration, path } = places(t);
  await saveMachine(configuration, MACHINE);
  const whole = readFileSync(path);
  const step = 7;
  for (let at = 0; at < whole.length - 1; at += step) {
    const changed = Buffer.from(whole);
    changed[at] = (changed[at] ?? 0) ^ 0x01;
    writeFileSync(path, changed);
    await t.throwsAsync(readMachine(configuration), { code: 'COLO_E_PROTOCOL' }, `byte ${at}`);
    writeFileSync(path, whole.subarray(0, at));
    await t.throwsAsync(readMachine(configuration), { code: 'COLO_E_PROTOCOL' }, `cut at ${at}`);
  }
});

test('a file of another version, or without an end, is no machine', async (t) => {
  const { configuration, path } = places(t);
  for (const text of ['', 'null', '{"version":2}', 'x'.repeat(1_000_000)]) {
    writeFileSync(path, text);
    await t.throwsAsync(readMachine(configuration), { code: 'COLO_E_PROTOCOL' });
  }
  const old = { ...HELLO, version: REPLICATION_VERSION - 1 };
  await saveMachine(configuration, { ...MACHINE, hello: old });
  await t.throwsAsync(readMachine(configuration), { message: /replication version/ });
});
