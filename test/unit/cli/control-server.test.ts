import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { AgentUnreachable, ControlServer, callAgent } from '../../../src/cli/index.js';
import { CONNECTIONS_MAX } from '../../../src/cli/limits.js';
import { ColoError, OperatorError } from '../../../src/lib/index.js';
import { CollectingLog, FakeNode, fullStatus } from '../../support/fake-node.js';
import { closed } from '../../support/sockets.js';
import { temporaryFolder } from '../../support/temporary.js';

const STATUS = { command: 'status', arguments: {} } as const;
const CHECKPOINT = { command: 'checkpoint', arguments: {} } as const;
const TIMEOUT_MS = 10_000;

async function startServer(t: ExecutionContext, idleMs?: number) {
  const path = join(temporaryFolder(t), 'run', 'web.sock');
  const log = new CollectingLog();
  const node = new FakeNode();
  const server = await ControlServer.start({ path, log, ...(idleMs ? { idleMs } : {}) });
  t.teardown(() => server.stop());
  server.serve(node);
  return { path, log, node, server };
}

/** Everything a connection receives until it is closed. */
async function readAll(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await closed(socket);
  return Buffer.concat(chunks).toString();
}

test('a status is asked for and answered', async (t) => {
  const { path } = await startServer(t);
  t.deepEqual(await callAgent(path, STATUS, TIMEOUT_MS), {
    id: 1,
    ok: true,
    result: fullStatus(),
  });
});

test('commands reach the node with their arguments', async (t) => {
  const { path, node } = await startServer(t);
  await callAgent(path, { command: 'failover', arguments: { force: true } }, TIMEOUT_MS);
  await callAgent(path, { command: 'set-period', arguments: { periodUs: 50_000 } }, TIMEOUT_MS);
  await callAgent(path, CHECKPOINT, TIMEOUT_MS);
  await callAgent(path, { command: 'set-period', arguments: { periodUs: 'auto' } }, TIMEOUT_MS);
  await callAgent(path, { command: 'set-mode', arguments: { mode: 'colo' } }, TIMEOUT_MS);
  const capture = { dir: '/d', durationUs: 1_000_000, nic: 1, bytesMax: 1 << 20 };
  await callAgent(path, { command: 'capture', arguments: capture }, TIMEOUT_MS);
  t.deepEqual(node.calls, [
    ...['failover force=true', 'set-period 50000', 'checkpoint', 'set-period auto'],
    ...['set-mode colo', 'capture /d 1000000 1 1048576'],
  ]);
});

test('a refusal and a failure of the node are answers', async (t) => {
  const { path, node } = await startServer(t);
  node.result = { ok: false, code: 'COLO_E_NO_PEER', reason: 'No secondary' };
  const refused = await callAgent(path, CHECKPOINT, TIMEOUT_MS);
  t.deepEqual(refused, {
    id: 1,
    ok: false,
    error: { code: 'COLO_E_NO_PEER', reason: 'No secondary' },
  });
  node.failure = new ColoError('COLO_E_QEMU', 'QEMU is gone');
  const command = { command: 'failover', arguments: { force: false } } as const;
  const failed = await callAgent(path, command, TIMEOUT_MS);
  t.deepEqual(failed, { id: 1, ok: false, error: { code: 'COLO_E_QEMU', reason: 'QEMU is gone' } });
});

test('an agent that has no node yet says so', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  const server = await ControlServer.start({ path, log: new CollectingLog() });
  t.teardown(() => server.stop());
  t.like(await callAgent(path, STATUS, TIMEOUT_MS), {
    ok: false,
    error: { code: 'COLO_E_STARTING' },
  });
});

test('the socket is for its owner only, and is gone after the stop', async (t) => {
  const { path, server } = await startServer(t);
  t.is(statSync(path).mode & 0o777, 0o600);
  await server.stop();
  await server.stop();
  t.false(existsSync(path));
});

test('another user is told that the socket is not for him', async (t) => {
  if (process.getuid?.() !== 0) {
    t.log('Skipped: only root can become another user');
    t.pass();
    return;
  }
  const folder = temporaryFolder(t);
  chmodSync(folder, 0o755);
  const path = join(folder, 'web.sock');
  const server = await ControlServer.start({ path, log: new CollectingLog() });
  t.teardown(() => server.stop());
  const script = `const { callAgent } = await import(process.argv[1]);
    process.seteuid(65534);
    await callAgent(process.argv[2], { command: 'status', arguments: {} }, 10000)
      .catch((error) => console.log(error.code, error.message));`;
  const client = new URL('../../../src/cli/control-client-shell.js', import.meta.url).href;
  const asked = promisify(execFile)(process.execPath, [
    ...['--input-type=module', '-e', script, client, path],
  ]);
  const told = `COLO_E_UNREACHABLE Permission to ${path} is denied; run colo as root\n`;
  t.is((await asked).stdout, told);
});

test('a folder that everybody may write to is refused, unless it is sticky', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'web.sock');
  chmodSync(folder, 0o777);
  await t.throwsAsync(ControlServer.start({ path, log: new CollectingLog() }), {
    instanceOf: OperatorError,
    message: /with mode 0777, expected one that not everybody may write to/,
  });
  chmodSync(folder, 0o1777);
  const server = await ControlServer.start({ path, log: new CollectingLog() });
  await server.stop();
});

test('a folder that is made for the socket is for its owner only', async (t) => {
  const { path } = await startServer(t);
  t.is(statSync(dirname(path)).mode & 0o777, 0o700);
});

test('requests of one connection are answered in their order, half-closed or not', async (t) => {
  const { path, node } = await startServer(t);
  let open: () => void = () => {};
  node.gate = new Promise((resolve) => {
    open = resolve;
  });
  const socket = connect(path);
  const all = readAll(socket);
  socket.end(
    '{"id":1,"command":"checkpoint","arguments":{}}\n{"id":2,"command":"nope","arguments":{}}\n',
  );
  await callAgent(path, STATUS, TIMEOUT_MS);
  open();
  const lines = (await all).trim().split('\n');
  t.deepEqual(
    lines.map((line) => (JSON.parse(line) as { id: number }).id),
    [1, 2],
  );
});

test('a malformed line costs its connection and one log line; others notice nothing', async (t) => {
  const { path, log, node, server } = await startServer(t);
  let open: () => void = () => {};
  node.gate = new Promise((resolve) => {
    open = resolve;
  });
  const bystander = callAgent(path, CHECKPOINT, TIMEOUT_MS);
  const socket = connect(path);
  socket.write('nonsense\nmore nonsense\n');
  t.is(await readAll(socket), '');
  open();
  t.true((await bystander).ok);
  t.deepEqual(log.lines, ['warn Dropped a control connection']);
  t.is(server.counters.malformed, 1);
});

test('a connection that ends within a line is malformed', async (t) => {
  const { path, server } = await startServer(t);
  const socket = connect(path);
  socket.end('{"id":1');
  await readAll(socket);
  t.is(server.counters.malformed, 1);
});

test('a silent connection is closed at its deadline', async (t) => {
  const { path, log, server } = await startServer(t, 50);
  t.is(await readAll(connect(path)), '');
  t.is(server.counters.idle, 1);
  t.deepEqual(log.lines, ['info Closed a silent control connection']);
});

test('one connection too many is closed, the others stay', async (t) => {
  const { path, server } = await startServer(t);
  const sockets: Socket[] = [];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  for (let index = 0; index < CONNECTIONS_MAX; index += 1) {
    const socket = connect(path);
    sockets.push(socket);
    await once(socket, 'connect');
  }
  t.is(await readAll(connect(path)), '');
  t.is(server.counters.refused, 1);
  sockets[0]?.write('{"id":5,"command":"status","arguments":{}}\n');
  const [answer] = (await once(sockets[0] as Socket, 'data')) as [Buffer];
  t.regex(answer.toString(), /^\{"id":5,"ok":true/);
});

test('the socket of a dead agent is replaced', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  const { spawnSync } = await import('node:child_process');
  const script = `require('net').createServer().listen(process.argv[1], () => {
    process.kill(process.pid, 'SIGKILL');
  })`;
  spawnSync(process.execPath, ['-e', script, path]);
  t.true(statSync(path).isSocket());
  await t.throwsAsync(callAgent(path, STATUS, TIMEOUT_MS), {
    instanceOf: AgentUnreachable,
    message: /Nobody answers/,
  });
  const server = await ControlServer.start({ path, log: new CollectingLog() });
  t.teardown(() => server.stop());
  t.like(await callAgent(path, STATUS, TIMEOUT_MS), { error: { code: 'COLO_E_STARTING' } });
});

test('the socket of a living agent is left alone', async (t) => {
  const { path } = await startServer(t);
  const error = await t.throwsAsync(ControlServer.start({ path, log: new CollectingLog() }), {
    instanceOf: OperatorError,
  });
  t.regex(error?.message ?? '', /^Found a running agent at .*choose another --vm or --socket$/);
  t.true((await callAgent(path, STATUS, TIMEOUT_MS)).ok);
});

test('a file in the way is not removed', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  writeFileSync(path, 'precious');
  await t.throwsAsync(ControlServer.start({ path, log: new CollectingLog() }), {
    instanceOf: OperatorError,
    message: /no socket/,
  });
  t.true(existsSync(path));
});

test('a folder that can not be made is the operator’s problem', async (t) => {
  const file = join(temporaryFolder(t), 'file');
  writeFileSync(file, '');
  await t.throwsAsync(
    ControlServer.start({ path: join(file, 'a.sock'), log: new CollectingLog() }),
    { instanceOf: OperatorError, message: /could not be made/ },
  );
});

test('no socket, and one that gives no answer, are told apart', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  await t.throwsAsync(callAgent(path, STATUS, TIMEOUT_MS), { message: /^Found no socket at/ });
  const mute = createServer().listen(path);
  await once(mute, 'listening');
  mute.on('connection', (socket) => t.teardown(() => socket.destroy()));
  t.teardown(() => mute.close());
  await t.throwsAsync(callAgent(path, STATUS, 50), { message: /gave no answer in 50 ms/ });
});

test('an answer that is none of ours is told as such', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  const stranger = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
  t.teardown(() => stranger.close());
  await once(stranger.listen(path), 'listening');
  await t.throwsAsync(callAgent(path, STATUS, TIMEOUT_MS), { code: 'COLO_E_PROTOCOL' });
});

test('events are asked for with what was seen last', async (t) => {
  const { path, node } = await startServer(t);
  const event = { sequence: 9, timeUs: 1, role: 'primary', kind: 'disk', reason: 'Full' } as const;
  node.answers = [{ events: [event], next: 9 }];
  const ask = { command: 'events', arguments: { after: 8, waitMs: 100 } } as const;
  const answer = await callAgent(path, ask, TIMEOUT_MS);
  t.deepEqual(answer, { id: 1, ok: true, result: { events: [event], next: 9 } });
  t.deepEqual(node.calls, ['events after=8 waitMs=100']);
});
