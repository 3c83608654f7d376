/** Each action of the OCF resource agent, against stand-ins for colo and its agents. */
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { temporaryFolder } from '../../support/temporary.js';

const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const AGENT = join(ROOT, 'packaging/ocf/colo');
const FAKES = join(ROOT, 'test/support/ocf');

const [OK, FAILED, NOT_INSTALLED, BAD_CONFIGURATION, STOPPED, PROMOTED] = [0, 1, 5, 6, 7, 8];

class Resource {
  readonly folder: string;
  readonly #env: Record<string, string>;

  constructor(t: ExecutionContext, change: Record<string, string> = {}) {
    this.folder = temporaryFolder(t);
    copyFileSync(join(FAKES, 'colo'), join(this.folder, 'colo'));
    for (const role of ['primary', 'secondary']) {
      copyFileSync(join(FAKES, 'colo-agent'), join(this.folder, `colo-${role}`));
    }
    this.#env = {
      PATH: process.env['PATH'] ?? '',
      FAKE_STATE: join(this.folder, 'state'),
      OCF_RESKEY_vm: 'web',
      OCF_RESKEY_bin: this.folder,
      OCF_RESKEY_run_dir: this.folder,
      OCF_RESKEY_log: join(this.folder, 'log'),
      ...change,
    };
    t.teardown(() => this.run('stop'));
  }

  /** The exit code of an action. */
  run(action: string): Promise<number> {
    return new Promise((resolve) => {
      const child = execFile('sh', [AGENT, action], { env: this.#env });
      child.once('exit', (code) => resolve(code ?? -1));
    });
  }

  mark(name: string): void {
    writeFileSync(join(this.folder, `state.${name}`), '');
  }

  calls(): string[] {
    return readFileSync(join(this.folder, 'state.calls'), 'utf8').trim().split('\n');
  }
}

test('a resource is started as a follower, stopped, and both again without harm', async (t) => {
  const resource = new Resource(t);
  t.is(await resource.run('monitor'), STOPPED);
  t.is(await resource.run('start'), OK);
  t.is(await resource.run('monitor'), OK);
  t.is(await resource.run('start'), OK);
  t.is(resource.calls().filter((call) => call === 'start secondary').length, 1);
  t.is(await resource.run('stop'), OK);
  t.is(await resource.run('monitor'), STOPPED);
  t.is(await resource.run('stop'), OK);
  t.false(existsSync(join(resource.folder, 'web.ocf-pid')));
});

test('a follower without the guest becomes the primary that boots it', async (t) => {
  const resource = new Resource(t);
  await resource.run('start');
  t.is(await resource.run('promote'), OK);
  t.is(await resource.run('monitor'), PROMOTED);
  t.true(resource.calls().includes('start primary'));
  t.false(resource.calls().includes('failover'));
  t.is(await resource.run('promote'), OK);
});

test('a follower that has the guest takes over', async (t) => {
  const resource = new Resource(t);
  await resource.run('start');
  resource.mark('committed');
  t.is(await resource.run('promote'), OK);
  t.is(await resource.run('monitor'), PROMOTED);
  t.true(resource.calls().includes('failover'));
  t.false(resource.calls().includes('start primary'));
});

test('a refused failover is a failure, unless force is allowed', async (t) => {
  for (const [forced, code] of [
    ['false', FAILED],
    ['true', OK],
  ] as const) {
    const resource = new Resource(t, { OCF_RESKEY_forced: forced });
    await resource.run('start');
    for (const mark of ['committed', 'refuses']) resource.mark(mark);
    t.is(await resource.run('promote'), code);
  }
});

test('a demoted primary follows', async (t) => {
  const resource = new Resource(t);
  await resource.run('start');
  await resource.run('promote');
  t.is(await resource.run('demote'), OK);
  t.is(await resource.run('monitor'), OK);
  t.is(await resource.run('demote'), OK);
});

test('an agent that does not answer is broken, one that ended is stopped', async (t) => {
  const resource = new Resource(t);
  await resource.run('start');
  const pid = Number(readFileSync(join(resource.folder, 'web.ocf-pid'), 'utf8'));
  writeFileSync(join(resource.folder, 'colo'), '#!/bin/sh\nexit 69\n');
  t.is(await resource.run('monitor'), FAILED);
  t.is(await resource.run('promote'), FAILED);
  process.kill(pid, 'SIGKILL');
  for (;;) {
    const code = await resource.run('monitor');
    if (code === STOPPED) break;
    t.is(code, FAILED);
  }
});

test('a process id that went to somebody else is not ours', async (t) => {
  const resource = new Resource(t);
  writeFileSync(join(resource.folder, 'web.ocf-pid'), `${process.pid}\n`);
  t.is(await resource.run('monitor'), STOPPED);
  t.is(await resource.run('stop'), OK);
});

test('what a restart would not mend is told as such', async (t) => {
  const broken = new Resource(t);
  broken.mark('broken');
  t.is(await broken.run('start'), BAD_CONFIGURATION);
  const bad = ['', 'A B', 'a/b', '../x'];
  for (const vm of bad) {
    t.is(await new Resource(t, { OCF_RESKEY_vm: vm }).run('validate-all'), BAD_CONFIGURATION, vm);
  }
  const missing = new Resource(t, { OCF_RESKEY_bin: '/nonexistent' });
  t.is(await missing.run('validate-all'), NOT_INSTALLED);
  t.is(await new Resource(t).run('validate-all'), OK);
  t.is(await new Resource(t).run('bogus'), 3);
});

test('one configuration serves both roles, if it is named', async (t) => {
  const resource = new Resource(t, { OCF_RESKEY_config: '/etc/colo/both.conf' });
  t.is(await resource.run('start'), OK);
  t.is(await resource.run('promote'), OK);
  const given = readFileSync(join(resource.folder, 'state.arguments'), 'utf8').trim().split('\n');
  t.deepEqual(
    given.map((line) => line.split(' ').slice(0, 3).join(' ')),
    ['secondary --config /etc/colo/both.conf', 'primary --config /etc/colo/both.conf'],
  );
});
