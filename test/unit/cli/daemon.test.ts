/** The daemons' main as a process: exit codes, signals, socket, log. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { callAgent } from '../../../src/cli/index.js';
import { temporaryFolder } from '../../support/temporary.js';

const DAEMON = fileURLToPath(new URL('../../support/fake-daemon.js', import.meta.url));
const STATUS = { command: 'status', arguments: {} } as const;

class Daemon {
  out = '';
  err = '';
  readonly child: ChildProcess;
  readonly ended: Promise<[number | null, string | null]>;
  #onOutput: () => void = () => {};

  constructor(t: ExecutionContext, argv: string[]) {
    this.child = spawn(process.execPath, [DAEMON, ...argv], { stdio: ['pipe', 'pipe', 'pipe'] });
    t.teardown(() => this.child.kill('SIGKILL'));
    this.child.stdout?.on('data', (chunk: Buffer) => {
      this.out += chunk.toString();
    });
    this.child.stderr?.on('data', (chunk: Buffer) => {
      this.err += chunk.toString();
      this.#onOutput();
    });
    this.ended = once(this.child, 'close') as Promise<[number | null, string | null]>;
  }

  /** Resolves when stderr has this text; the test's own deadline ends a vain wait. */
  async says(text: string): Promise<void> {
    while (!this.err.includes(text)) {
      await new Promise<void>((resolve) => {
        this.#onOutput = resolve;
      });
    }
  }
}

function start(t: ExecutionContext, mode: string, ...argv: string[]) {
  const folder = temporaryFolder(t);
  const daemon = new Daemon(t, [mode, '--run-dir', folder, '--host', 'h', ...argv]);
  return { daemon, folder, socket: join(folder, 'guest.sock') };
}

test('SIGTERM stops in order: exit 0, socket gone, last line logged', async (t) => {
  const { daemon, socket } = start(t, 'run');
  await daemon.says('The node runs');
  daemon.child.kill('SIGTERM');
  t.deepEqual(await daemon.ended, [0, null]);
  t.false(existsSync(socket));
  const lines = daemon.err.trimEnd().split('\n');
  t.regex(lines[0] ?? '', / info h\/guest secondary epoch=0 The agent starts version=/);
  t.regex(lines.at(-1) ?? '', / info h\/guest primary epoch=7 The agent ends exitCode=0 reason=/);
});

test('the control socket answers while the node runs', async (t) => {
  const { daemon, socket } = start(t, 'run');
  await daemon.says('The node runs');
  t.true((await callAgent(socket, STATUS, 10_000)).ok);
  daemon.child.kill('SIGINT');
  t.deepEqual(await daemon.ended, [0, null]);
});

test('a second signal ends at once with 128 and its number', async (t) => {
  for (const [signal, code] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const) {
    const { daemon } = start(t, 'hang-stop');
    await daemon.says('The node runs');
    daemon.child.kill(signal);
    await daemon.says('Stopping');
    daemon.child.kill(signal);
    t.deepEqual(await daemon.ended, [code, null]);
  }
});

test('a signal during the start ends the daemon', async (t) => {
  const { daemon } = start(t, 'hang-start');
  await daemon.says('The agent starts');
  daemon.child.kill('SIGTERM');
  t.deepEqual(await daemon.ended, [143, null]);
});

test('a node that ends by itself gives the exit code', async (t) => {
  const { daemon } = start(t, 'finish');
  t.deepEqual(await daemon.ended, [1, null]);
  t.regex(daemon.err, /error .* The agent ends exitCode=1 reason="The guest ended"/);
});

test('a node that can not start exits 1 with the reason', async (t) => {
  const { daemon, socket } = start(t, 'fail-start');
  t.deepEqual(await daemon.ended, [1, null]);
  t.regex(daemon.err, /The agent could not start error="QEMU is not there"/);
  t.false(existsSync(socket));
});

test('a bug at the start or later exits 70 with its stack', async (t) => {
  for (const mode of ['bug-start', 'bug-later']) {
    const { daemon } = start(t, mode);
    t.deepEqual(await daemon.ended, [70, null]);
    t.regex(daemon.err, /Two and two are five.* stack=/);
  }
});

test('a second agent for the same VM exits 78 and leaves the first alone', async (t) => {
  const { daemon, folder, socket } = start(t, 'run');
  await daemon.says('The node runs');
  const second = new Daemon(t, ['run', '--run-dir', folder]);
  t.deepEqual(await second.ended, [78, null]);
  t.regex(second.err, /Found a running agent at/);
  t.true((await callAgent(socket, STATUS, 10_000)).ok);
});

test('wrong flags exit 64 and wrong files 78, one line for each problem', async (t) => {
  const flags = start(t, 'run', '--bogus', '--memory', '1GiB');
  t.deepEqual(await flags.daemon.ended, [64, null]);
  t.is(flags.daemon.err.trimEnd().split('\n').length, 2);
  const file = join(temporaryFolder(t), 'c.conf');
  writeFileSync(file, 'on-peer-loss = panic\n');
  const wrong = start(t, 'run', '--config', file);
  t.deepEqual(await wrong.daemon.ended, [78, null]);
  t.is(
    wrong.daemon.err,
    `colo-secondary: ${file}:1: on-peer-loss: found "panic", expected failover or wait; ` +
      'write it exactly so\n',
  );
});

test('an endless configuration file is refused', async (t) => {
  const { daemon } = start(t, 'run', '--config', '/dev/zero');
  t.deepEqual(await daemon.ended, [78, null]);
  t.regex(
    daemon.err,
    /: found more than 262144 bytes, expected a configuration file; name another/,
  );
});

test('check-config prints the configuration and starts nothing', async (t) => {
  const { daemon, socket } = start(t, 'run', '--check-config', '--on-peer-loss', 'wait');
  t.deepEqual(await daemon.ended, [0, null]);
  t.true(daemon.out.includes('on-peer-loss = wait\n'));
  t.is(daemon.err, '');
  t.false(existsSync(socket));
});

test('help and version are printed on stdout', async (t) => {
  const help = start(t, 'run', '--help', '--bogus');
  t.deepEqual(await help.daemon.ended, [0, null]);
  t.true(help.daemon.out.startsWith('colo-secondary: runs the SVM'));
  const version = start(t, 'run', '--version');
  t.deepEqual(await version.daemon.ended, [0, null]);
  t.regex(version.daemon.out, /^\d+\.\d+\.\d+\n$/);
});
