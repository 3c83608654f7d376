/** The three clients against small servers on loopback that misbehave on purpose. */
import { createHash } from 'node:crypto';
import type { Socket } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import type { ClientEvent } from '../../../scripts/clients/client.js';
import { HttpClient } from '../../../scripts/clients/http-client.js';
import { RedisClient } from '../../../scripts/clients/redis-client.js';
import { RespParser } from '../../../scripts/clients/resp.js';
import { StreamClient } from '../../../scripts/clients/stream-client.js';
import { serve } from '../../support/serve.js';

const TELL_GAP_ABOVE_US = 1e9;

/** Resolves as soon as `condition` holds after one of the server's own events. */
function whenCalled(): { call(): void; until(condition: () => boolean): Promise<void> } {
  let check = (): void => {};
  return {
    call: () => setImmediate(check),
    until: (condition) =>
      new Promise((resolve) => {
        check = () => {
          if (condition()) resolve();
        };
        check();
      }),
  };
}

const BODY = Buffer.alloc(100_000, 'colo');
const SHA256 = createHash('sha256').update(BODY).digest('hex');

async function runHttp(t: ExecutionContext, bodyOf: (nth: number) => Buffer | undefined) {
  const signal = whenCalled();
  let served = 0;
  const target = await serve(t, (socket) => {
    socket.once('data', () => {
      const body = bodyOf(served++);
      signal.call();
      if (body === undefined) socket.resetAndDestroy();
      else socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${BODY.length}\r\n\r\n${body}`);
    });
  });
  const events: ClientEvent[] = [];
  const client = new HttpClient(
    { ...target, path: '/file', sha256: SHA256, intervalMs: 5, tellGapAboveUs: TELL_GAP_ABOVE_US },
    (event) => events.push(event),
  );
  client.start();
  await signal.until(() => served >= 4);
  return { report: await client.stop(), events };
}

test('http: right answers are counted, none is lost', async (t) => {
  const { report, events } = await runHttp(t, () => BODY);
  t.true(report.successes >= 3);
  t.is(report.connectionsLost, 0);
  t.deepEqual(events, []);
});

test('http: a wrong body, a short body and a reset are each one lost connection', async (t) => {
  const wrong = Buffer.from(BODY);
  wrong[50_000] = 0;
  const bodies = [wrong, BODY.subarray(1), undefined];
  const { report, events } = await runHttp(t, (nth) => (nth < 3 ? bodies[nth] : BODY));
  t.is(report.connectionsLost, 3);
  t.is(events.filter((event) => event.type === 'lost').length, 3);
});

/** A redis that knows SET and MGET; `onSet` decides what a SET is answered. */
function fakeRedis(store: Map<string, string>, onSet: (socket: Socket, key: string) => string) {
  return (socket: Socket): void => {
    const parser = new RespParser();
    socket.on('data', (chunk) => {
      for (const value of parser.write(chunk)) {
        if (value.kind !== 'array') throw new Error('A command is a list');
        const words = value.items.map((item) => ('bytes' in item ? item.bytes.toString() : ''));
        const [verb, key = '', text = ''] = words;
        if (verb === 'SET') {
          store.set(key, text);
          socket.write(onSet(socket, key));
          continue;
        }
        const found = words.slice(1).map((word) => store.get(word));
        const replies = found.map((s) =>
          s === undefined ? '$-1\r\n' : `$${s.length}\r\n${s}\r\n`,
        );
        socket.write(`*${found.length}\r\n${replies.join('')}`);
      }
    });
  };
}

async function runRedis(t: ExecutionContext, sets: number, onSet: Parameters<typeof fakeRedis>[1]) {
  const signal = whenCalled();
  const store = new Map<string, string>();
  let seen = 0;
  const target = await serve(
    t,
    fakeRedis(store, (socket, key) => {
      seen++;
      signal.call();
      return onSet(socket, key);
    }),
  );
  const client = new RedisClient({ ...target, tellGapAboveUs: TELL_GAP_ABOVE_US }, () => {});
  client.start();
  await signal.until(() => seen >= sets);
  return { client, store };
}

test('redis: all acknowledged writes are read back, in several batches', async (t) => {
  const { client, store } = await runRedis(t, 1200, () => '+OK\r\n');
  const report = await client.stop();
  t.is(report.acknowledged, store.size);
  t.true(report.acknowledged >= 1199);
  t.is(report.acknowledgedLost, 0);
  t.is(report.connectionsLost, 0);
});

test('redis: an acknowledged write that is gone or changed is found', async (t) => {
  const { client, store } = await runRedis(t, 20, () => '+OK\r\n');
  const keys = [...store.keys()];
  store.delete(keys[3] as string);
  store.set(keys[4] as string, '3');
  t.is(await client.verify(), 2);
  t.is((await client.stop()).acknowledgedLost, 2);
});

test('redis: a refused write is not acknowledged', async (t) => {
  let nth = 0;
  const { client } = await runRedis(t, 10, () => (nth++ === 2 ? '-OOM no memory\r\n' : '+OK\r\n'));
  const report = await client.stop();
  t.is(report.refused, 1);
  t.is(report.acknowledgedLost, 0);
});

test('redis: a reset is a lost connection, the load goes on over a new one', async (t) => {
  let nth = 0;
  const { client } = await runRedis(t, 10, (socket) => {
    if (nth++ === 3) socket.resetAndDestroy();
    return '+OK\r\n';
  });
  const report = await client.stop();
  t.is(report.connectionsLost, 1);
  t.true(report.acknowledged >= 8);
  t.is(report.acknowledgedLost, 0);
});

test('stream: lines are counted and the gaps in their numbers found', async (t) => {
  const target = await serve(t, (socket) => socket.write('1 0\n2 20\n4 60\n4 60\n5 80\n'));
  const client = new StreamClient({ ...target, tellGapAboveUs: TELL_GAP_ABOVE_US }, () => {});
  client.start();
  while (client.successes < 3) await new Promise((resolve) => setImmediate(resolve));
  const report = await client.stop();
  t.like(report, { lines: 5, missing: 1, repeats: 1, malformed: 0, connectionsLost: 0 });
});

test('stream: a connection that ends is lost and replaced, numbers may start anew', async (t) => {
  let nth = 0;
  const target = await serve(t, (socket) => {
    if (nth++ === 0) socket.end('7 0\n');
    else socket.write('1 0\n2 20\n');
  });
  const client = new StreamClient({ ...target, tellGapAboveUs: TELL_GAP_ABOVE_US }, () => {});
  client.start();
  while (client.successes < 3) await new Promise((resolve) => setImmediate(resolve));
  const report = await client.stop();
  t.like(report, { lines: 3, missing: 0, repeats: 0, connectionsLost: 1 });
});
