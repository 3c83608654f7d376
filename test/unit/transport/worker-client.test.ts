import { once } from 'node:events';
import net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import {
  AssertionFailed,
  ColoError,
  describeError,
  OperatorError,
  ProtocolError,
} from '../../../src/lib/index.js';
import {
  CHANNEL_LIMITS,
  endWorkers,
  Link,
  prepareWorker,
  WorkerClient,
} from '../../../src/transport/index.js';
import type { RpcCalls, RpcNotices } from './rpc-worker.js';
import { LogCollector, linkAndSocket } from './support.js';

interface Started {
  readonly client: WorkerClient<RpcCalls, RpcNotices>;
  readonly numbers: number[];
  readonly log: LogCollector;
  readonly failures: Error[];
  /** Resolves with the first failure. */
  readonly failed: Promise<Error>;
}

function start(t: ExecutionContext, entry = './rpc-worker.js'): Started {
  const numbers: number[] = [];
  const failures: Error[] = [];
  const log = new LogCollector();
  let onFirst = (_error: Error): void => {};
  const failed = new Promise<Error>((resolve) => {
    onFirst = resolve;
  });
  const client = new WorkerClient<RpcCalls, RpcNotices>(new URL(entry, import.meta.url), {
    name: 'rpc',
    log,
    notices: { number: (value) => numbers.push(value) },
    onFailure(error) {
      failures.push(error);
      onFirst(error);
    },
  });
  t.teardown(() => client.terminate());
  return { client, numbers, log, failures, failed };
}

test('a call resolves with the result, whenever the handler has it', async (t) => {
  const { client } = start(t);
  const held = client.call('held');
  t.is(await client.call('add', 2, 3), 5);
  client.notify('release');
  t.is(await held, 'released');
});

test('a thread that was started ahead of time is taken once, and works as any other', async (t) => {
  const entry = './rpc-worker.js?spare';
  prepareWorker(new URL(entry, import.meta.url), 'rpc');
  prepareWorker(new URL(entry, import.meta.url), 'rpc');
  const [one, other] = [start(t, entry), start(t, entry)];
  t.is(await one.client.call('add', 2, 3), 5);
  await one.client.terminate();
  t.is(await other.client.call('add', 3, 4), 7);
});

test('a thread may be started ahead of time a little later, or not at all by then', async (t) => {
  const entry = './rpc-worker.js?later';
  prepareWorker(new URL(entry, import.meta.url), 'rpc', 1);
  const { client } = start(t, entry);
  t.is(await client.call('add', 1, 1), 2);
});

test('what a handler throws is thrown at the caller, of the same class', async (t) => {
  const { client, failures } = start(t);
  const operator = await t.throwsAsync(client.call('fail', 'operator'), {
    instanceOf: OperatorError,
    code: 'COLO_E_TEST',
    message: 'Not so',
  });
  t.true(operator?.cause instanceof ProtocolError);
  await t.throwsAsync(client.call('fail', 'protocol'), { instanceOf: ProtocolError });
  await t.throwsAsync(client.call('fail', 'system'), { code: 'ENOENT' });
  await t.throwsAsync(client.call('fail', 'text'), { message: 'only a text' });
  t.is(await client.call('add', 1, 1), 2);
  t.deepEqual(failures, []);
});

test('what can not be cloned fails its own call only', async (t) => {
  const { client } = start(t);
  await t.throwsAsync(client.call('unclonable'), { name: 'DataCloneError' });
  const odd = (() => 1) as unknown as number;
  await t.throwsAsync(client.call('add', odd, 1), { any: true, name: 'DataCloneError' });
  t.is(await client.call('add', 1, 1), 2);
});

test('messages keep their order both ways, calls and notices mixed', async (t) => {
  const { client, numbers } = start(t);
  for (let value = 0; value < 1000; value += 1) client.notify('remember', value);
  const first = client.call('remembered');
  client.notify('remember', 1000);
  t.deepEqual(
    await first,
    Array.from({ length: 1000 }, (_, value) => value),
  );
  const seen: number[] = [];
  const counts = [0, 1, 2, 3].map(async (n) => {
    await client.call('count', n * 100, n * 100 + 99);
    seen.push(numbers.length);
  });
  await Promise.all(counts);
  t.deepEqual(
    numbers,
    Array.from({ length: 400 }, (_, value) => value),
  );
  // Each answer is heard right after the notices before it, before those behind it.
  t.deepEqual(seen, [100, 200, 300, 400]);
});

test("the worker's log lines come out of the main thread's log", async (t) => {
  const { client, log } = start(t);
  await client.call('log');
  t.deepEqual(log.lines, [
    { level: 'info', message: 'Two', fields: { count: 2, big: 3n } },
    { level: 'warn', message: 'Three', fields: { reason: 'why (how)' } },
    {
      level: 'error',
      message: 'Four',
      fields: { odd: '() => 1', inside: '[object Object]', bytes: [1, 2] },
    },
  ]);
});

test('an exception that a notice causes ends the thread: one failure, all calls reject', async (t) => {
  const { client, failed, failures } = start(t);
  const pending = [client.call('held'), client.call('held')];
  client.notify('breakInvariant');
  const behind = client.call('add', 1, 1);
  for (const call of [...pending, behind]) {
    await t.throwsAsync(call, { instanceOf: ColoError, code: 'COLO_E_WORKER' });
  }
  const failure = await failed;
  t.true(failure instanceof AssertionFailed);
  t.is(failure.message, 'One is two');
  await t.throwsAsync(client.call('add', 1, 1), { code: 'COLO_E_WORKER' });
  client.notify('remember', 1);
  await client.terminate();
  t.is(failures.length, 1);
});

test('a promise of the worker that rejects unnoticed ends the thread', async (t) => {
  const { client, failed } = start(t);
  client.notify('rejectUnnoticed');
  const failure = await failed;
  t.true(failure instanceof ProtocolError);
  t.is(failure.message, 'Nobody awaits this');
});

test('a thread that exits, or whose file is missing, has failed', async (t) => {
  const first = start(t);
  first.client.notify('exit');
  const failure = await first.failed;
  t.like(failure, { code: 'COLO_E_WORKER' });
  t.regex(failure.message, /rpc .* code 3/);
  const second = start(t, './no-such-worker.js');
  const call = t.throwsAsync(second.client.call('add', 1, 1), { code: 'COLO_E_WORKER' });
  t.regex(describeError(await second.failed), /no-such-worker/);
  await call;
});

test('terminate stops even a busy thread, rejects what is pending, and is no failure', async (t) => {
  const { client, failures } = start(t);
  await client.call('add', 1, 1);
  client.notify('spin');
  const pending = t.throwsAsync(client.call('add', 1, 1), { code: 'COLO_E_WORKER' });
  const twice = [client.terminate(), client.terminate()];
  await Promise.all(twice);
  await client.terminate();
  await pending;
  await t.throwsAsync(client.call('add', 1, 1), { code: 'COLO_E_WORKER' });
  t.deepEqual(failures, []);
});

test.serial('before the process ends its threads do, also those that wait for work', async (t) => {
  const entry = './rpc-worker.js?ending';
  prepareWorker(new URL(entry, import.meta.url), 'rpc');
  const { client, failures } = start(t);
  t.is(await client.call('add', 1, 1), 2);
  await endWorkers();
  await t.throwsAsync(client.call('add', 1, 1), { code: 'COLO_E_WORKER' });
  t.deepEqual(failures, []);
  // The one that waited is not taken any more.
  t.is(await start(t, entry).client.call('add', 1, 1), 2);
});

test('threads that watch what is always ready end, and nothing else does', async (t) => {
  for (let round = 0; round < 8; round += 1) {
    const terminated = start(t);
    await terminated.client.call('watchReady');
    await terminated.client.terminate();
    t.deepEqual(terminated.failures, []);
    const failing = start(t);
    await failing.client.call('watchReady');
    failing.client.notify('breakInvariant');
    t.true((await failing.failed) instanceof AssertionFailed);
  }
});

for (const end of ['terminated', 'failed'] as const) {
  test(`the peer sees the link of a ${end} thread close`, async (t) => {
    const { near, far } = await linkAndSocket(t, CHANNEL_LIMITS.network);
    const { client, failed } = start(t);
    await client.call(
      'holdLink',
      near.detach({ close() {}, destroy() {}, reconnect() {}, renew() {} }),
    );
    const closed = once(far, 'close');
    far.resume();
    if (end === 'terminated') await client.terminate();
    else {
      new Link(far, { log: new LogCollector(), limits: CHANNEL_LIMITS.network }).send(0x100, []);
      t.true((await failed) instanceof AssertionFailed);
    }
    await closed;
    t.true(far instanceof net.Socket && far.destroyed);
  });
}
