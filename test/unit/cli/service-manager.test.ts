/** A daemon as a service of systemd: what it sends to NOTIFY_SOCKET. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { NotifySocket } from '../../support/notify-socket.js';
import { temporaryFolder } from '../../support/temporary.js';

const DAEMON = fileURLToPath(new URL('../../support/fake-daemon.js', import.meta.url));

function start(t: ExecutionContext, mode: string, env: Record<string, string>) {
  const child = spawn(process.execPath, [DAEMON, mode, '--run-dir', temporaryFolder(t)], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
  });
  t.teardown(() => child.kill('SIGKILL'));
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, log }));
  return { child, ended };
}

test('ready comes first, then the status and signs of life, at the end stopping', async (t) => {
  const address = join(temporaryFolder(t), 'notify');
  const manager = await NotifySocket.listen(t, address);
  const { child, ended } = start(t, 'run', { NOTIFY_SOCKET: address, WATCHDOG_USEC: '90000' });
  await manager.waitFor(/^READY=1$/);
  await manager.waitFor(/^STATUS=primary, .*\|WATCHDOG=1$/);
  const soFar = manager.datagrams.length;
  await manager.waitFor(/^WATCHDOG=1$/, soFar);
  child.kill('SIGTERM');
  await manager.waitFor(/^STOPPING=1$/);
  t.is((await ended).code, 0);
  t.is(manager.datagrams[0], 'READY=1');
});

test('a watchdog that is not meant for us gets no signs', async (t) => {
  const address = join(temporaryFolder(t), 'notify');
  const manager = await NotifySocket.listen(t, address);
  const env = { NOTIFY_SOCKET: address, WATCHDOG_USEC: '3000', WATCHDOG_PID: '1' };
  const { child, ended } = start(t, 'run', env);
  await manager.waitFor(/^STATUS=/);
  child.kill('SIGTERM');
  await manager.waitFor(/STOPPING=1/);
  t.is((await ended).code, 0);
  t.false(manager.datagrams.some((datagram) => datagram.includes('WATCHDOG')));
});

test('a node that could not start is never ready', async (t) => {
  const address = join(temporaryFolder(t), 'notify');
  const manager = await NotifySocket.listen(t, address);
  const { ended } = start(t, 'fail-start', { NOTIFY_SOCKET: address, WATCHDOG_USEC: '3000' });
  t.is((await ended).code, 1);
  t.false(manager.datagrams.some((datagram) => /READY|WATCHDOG/.test(datagram)));
});

test('a service manager that is away is told in the log, once, and the node runs on', async (t) => {
  const address = join(temporaryFolder(t), 'none');
  const { child, ended } = start(t, 'run', { NOTIFY_SOCKET: address, WATCHDOG_USEC: '3000' });
  // Each line of the log goes to stderr at once; the complaint is the last before the signal.
  for await (const chunk of child.stderr.iterator({ destroyOnReturn: false })) {
    if (String(chunk).includes('can not be told')) break;
  }
  child.kill('SIGTERM');
  const { code, log } = await ended;
  t.is(code, 0);
  t.is(log.split('The service manager can not be told').length, 2, log);
});
