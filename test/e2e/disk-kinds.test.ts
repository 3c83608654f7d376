/**
 * A pair over loopback, without a lab, whose guest has each kind of disk: a qcow2 image, a raw file
 * that is read-only, a block device. The primary is killed; the secondary has the guest, the images
 * are equal, and nothing of the storage daemons is left.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { type AgentStatus, agentStatus, isProtected } from '../../scripts/harness/agent-control.js';
import { bootSectorImage } from '../support/boot-sector-guest.js';
import { hasQcow2, run, temporaryDirectory } from '../unit/blockrep/support.js';

const CLI = fileURLToPath(new URL('../../src/cli/', import.meta.url));
const DEADLINE_MS = 60_000;
const POLL_MS = 50;
const MIB = 1 << 20;

test('a guest with each kind of disk is protected and survives its primary', async (t) => {
  if (!hasQcow2(t)) return;
  const directory = temporaryDirectory(t);
  const file = (name: string) => path.join(directory, name);
  fs.writeFileSync(file('boot.raw'), bootSectorImage());
  await run('qemu-img', 'convert', '-O', 'qcow2', file('boot.raw'), file('root-a.qcow2'));
  for (const name of ['tools-a', 'tools-b']) fs.writeFileSync(file(name), Buffer.alloc(MIB, 7));
  const device = loopDevice(t, file('backing'));
  const port = String(await freePort());

  const secondary = startAgent(t, directory, 'colo-secondary', [
    ...['--listen', `127.0.0.1:${port}`, '--disk', `tools=${file('tools-b')}`],
    ...['--disk', `name=root,path=${file('root-b.qcow2')},format=qcow2`],
    ...['--disk', `data=${file('data-b')}`],
  ]);
  await untilStatus(secondary, 'the secondary to wait', () => true);
  const primary = startAgent(t, directory, 'colo-primary', [
    ...['--peer', `127.0.0.1:${port}`, '--memory', '64MiB', '--accel', 'tcg'],
    ...['--disk', `name=root,path=${file('root-a.qcow2')},format=qcow2`],
    ...['--disk', `name=tools,path=${file('tools-a')},readonly=on`],
    ...(device === undefined ? [] : ['--disk', `data=${device}`]),
  ]);
  await untilStatus(primary, 'protection', isProtected);
  primary.process.kill('SIGKILL');
  const status = await untilStatus(secondary, 'the failover', ({ role }) => role === 'primary');
  t.is(status.role, 'primary');
  secondary.process.kill('SIGTERM');
  const [code] = await once(secondary.process, 'exit');
  t.is(code, 0, secondary.log());
  const same = await run(
    'qemu-img',
    'compare',
    '-f',
    'raw',
    file('boot.raw'),
    file('root-b.qcow2'),
  );
  t.regex(same, /identical/);
  t.regex(await run('qemu-img', 'check', file('root-b.qcow2')), /No errors/);
  t.true(fs.readFileSync(file('tools-b')).equals(Buffer.alloc(MIB, 7)));
  if (device !== undefined) {
    t.true(fs.readFileSync(file('data-b')).equals(fs.readFileSync(file('backing'))));
  }
  await until('every process to end', () => processesNaming(directory).length === 0);
});

test('a secondary whose read-only image has another size is told so', async (t) => {
  const directory = temporaryDirectory(t);
  const file = (name: string) => path.join(directory, name);
  fs.writeFileSync(file('tools-a'), bootSectorImage());
  fs.writeFileSync(file('tools-b'), Buffer.alloc(2 * MIB));
  const port = String(await freePort());
  const secondary = startAgent(t, directory, 'colo-secondary', [
    ...['--listen', `127.0.0.1:${port}`, '--disk', `tools=${file('tools-b')}`],
  ]);
  await untilStatus(secondary, 'the secondary to wait', () => true);
  const primary = startAgent(t, directory, 'colo-primary', [
    ...['--peer', `127.0.0.1:${port}`, '--memory', '64MiB', '--accel', 'tcg'],
    ...['--disk', `name=tools,path=${file('tools-a')},readonly=on`],
  ]);
  const wrongSize = /tools-b has 2097152 bytes where 1048576 are expected/;
  await until(
    'the refusal',
    () => wrongSize.test(primary.log()) && wrongSize.test(secondary.log()),
  );
  for (const agent of [primary, secondary]) {
    t.regex(agent.log(), wrongSize);
    agent.process.kill('SIGTERM');
    await once(agent.process, 'exit');
  }
  await until('every process to end', () => processesNaming(directory).length === 0);
});

interface Agent {
  readonly process: ChildProcess;
  readonly socket: string;
  log(): string;
}

function startAgent(
  t: ExecutionContext,
  directory: string,
  program: 'colo-primary' | 'colo-secondary',
  flags: readonly string[],
): Agent {
  const place = path.join(directory, program);
  fs.mkdirSync(place);
  const common = ['--vm', 'disks', '--host', program, '--run-dir', place, '--state-dir', place];
  common.push('--transport-security', 'plain-trusted');
  const words = [path.join(CLI, `${program}.js`), ...common, '--peer-timeout', '3s', ...flags];
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', 'pipe'] });
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  return { process: child, socket: path.join(place, 'disks.sock'), log: () => said };
}

/** A loop device of 1 MiB; undefined, with the reason printed, where there are none. */
function loopDevice(t: ExecutionContext, file: string): string | undefined {
  const backing = Buffer.alloc(MIB);
  backing.fill(9, 4096, 8192);
  fs.writeFileSync(file, backing);
  const words = ['--find', '--show', file];
  const { status, stdout, stderr } = spawnSync('losetup', words, { encoding: 'utf8' });
  if (status !== 0) {
    t.log(`no block device in this pair: ${stderr?.trim() || 'losetup is not installed'}`);
    return undefined;
  }
  const device = stdout.trim();
  t.teardown(() => run('losetup', '--detach', device));
  return device;
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** An agent that does not answer yet is asked again. */
async function untilStatus(
  agent: Agent,
  what: string,
  holds: (status: AgentStatus) => boolean,
): Promise<AgentStatus> {
  let last: AgentStatus | undefined;
  await until(
    what,
    async () => {
      last = await agentStatus(agent.socket).catch(() => undefined);
      return last !== undefined && holds(last);
    },
    agent.log,
  );
  return last as AgentStatus;
}

async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  log: () => string = () => '',
): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`Waited too long for ${what}:\n${log()}`);
    await delay(POLL_MS);
  }
}

/** Command lines of processes that have the text in them. */
function processesNaming(text: string): string[] {
  return fs
    .readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      } catch {
        return '';
      }
    })
    .filter((line) => line.includes(text));
}
