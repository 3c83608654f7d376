/** Clients with dialogues and random answers against small guests that misbehave on purpose. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import test, { type ExecutionContext } from 'ava';
import { AcceptedClient } from '../../../scripts/clients/accepted-client.js';
import type { ClientEvent } from '../../../scripts/clients/client.js';
import { DialledClient } from '../../../scripts/clients/dialled-client.js';
import { Answerer, Asker } from '../../../scripts/clients/dialogue.js';
import { RandomClient } from '../../../scripts/clients/random-client.js';
import { serve } from '../../support/serve.js';

const QUICK = { openEveryMs: 5, openMax: 4, pauseMsMax: 5, deadlineMs: 10_000 };

/** Waits until `holds`, which no event announces; the test's own time limit is the deadline. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 2));
}

/* Connections that the client opens. */

async function accepted(
  t: ExecutionContext,
  options: { deadlineMs?: number; onSocket: (socket: Socket, nth: number) => void },
) {
  let nth = 0;
  const target = await serve(t, (socket) => options.onSocket(socket, nth++));
  const events: ClientEvent[] = [];
  const deadlineMs = options.deadlineMs ?? QUICK.deadlineMs;
  const client = new AcceptedClient(
    { ...QUICK, deadlineMs, hosts: [target.host], port: target.port },
    (event) => events.push(event),
  );
  client.start();
  return { client, events, connections: () => nth };
}

function echo(socket: Socket): void {
  const answerer = new Answerer();
  socket.on('data', (chunk) => socket.write(answerer.write(chunk)));
}

test('accepted: right dialogues are counted, each connection ends as planned', async (t) => {
  const { client, events, connections } = await accepted(t, { onSocket: echo });
  await until(() => client.successes >= 50 && connections() >= 2 * QUICK.openMax);
  t.true(client.openSince(0) > 0);
  t.is(client.openSince(Number.MAX_SAFE_INTEGER), 0);
  const report = await client.stop();
  t.like(report, { dead: 0, wrong: 0 });
  t.true(report.established > QUICK.openMax);
  t.true(report.connections.every(({ fate }) => fate === 'closed'));
  t.deepEqual(events, []);
});

test('accepted: a changed byte is a wrong connection', async (t) => {
  const { client, events } = await accepted(t, {
    onSocket: (socket, nth) => {
      if (nth !== 1) echo(socket);
      else socket.on('data', (chunk) => socket.write(chunk.fill('0', 3, 4)));
    },
  });
  await until(() => events.length > 0 && client.successes >= 5);
  t.like(await client.stop(), { dead: 0, wrong: 1 });
});

test('accepted: a byte too many behind the last answer is a wrong connection', async (t) => {
  const { client } = await accepted(t, {
    onSocket: (socket, nth) => {
      echo(socket);
      if (nth === 0) socket.on('end', () => socket.write('x'));
    },
  });
  await until(() => client.successes >= 5);
  t.like(await client.stop(), { dead: 0, wrong: 1 });
});

test('accepted: a reset and an end that nobody asked for are dead connections', async (t) => {
  const { client, events } = await accepted(t, {
    onSocket: (socket, nth) => {
      if (nth === 0) socket.once('data', () => socket.resetAndDestroy());
      else if (nth === 1) socket.end();
      else echo(socket);
    },
  });
  await until(() => events.length >= 2 && client.successes >= 5);
  t.like(await client.stop(), { dead: 2, wrong: 0 });
});

test('accepted: a connection that is not answered is dead, so is one that is refused', async (t) => {
  const silent = await accepted(t, { deadlineMs: 100, onSocket: () => {} });
  await until(() => silent.events.length > 0);
  t.true((await silent.client.stop()).dead > 0);
  const hosts = ['127.0.0.1'];
  let refusals = 0;
  const refused = new AcceptedClient({ ...QUICK, hosts, port: 1 }, () => refusals++);
  refused.start();
  await until(() => refusals > 0);
  const report = await refused.stop();
  t.is(report.established, 0);
  t.true(report.dead > 0);
});

/* Connections that the guest opens. */

interface FakeGuest {
  /** Called for each `converse`; by default the guest asks as it should. */
  readonly onConverse?: (id: number, port: number) => void;
  readonly wrongAtEnd?: number;
}

function askOn(socket: Socket, id: number, damage: (line: string) => string = (line) => line) {
  const asker = new Asker(id);
  socket.on('error', () => {});
  socket.on('connect', () => socket.write(damage(asker.ask('filler'))));
  socket.on('data', (chunk) => {
    if (asker.write(chunk) > 0) socket.write(damage(asker.ask('more')));
  });
}

async function dialled(t: ExecutionContext, guest: FakeGuest, deadlineMs = QUICK.deadlineMs) {
  let asked = 0;
  let connections = 0;
  const control = await serve(t, (socket) => {
    createInterface({ input: socket }).on('line', (line) => {
      const [verb, id = '', address = '', port = ''] = line.split(' ');
      if (verb === 'conversations') {
        const wrong = asked++ === 0 ? 0 : (guest.wrongAtEnd ?? 0);
        socket.write(`ok accepted=0 dialled=0 open=0 lines=1 wrong=${wrong} broken=0 failed=0\n`);
        return;
      }
      t.is(address, '127.0.0.1');
      connections++;
      const ask = (n: number, p: number): void => askOn(connect(p, '127.0.0.1'), n);
      (guest.onConverse ?? ask)(Number(id), Number(port));
      socket.write('ok\n');
    });
  });
  const events: ClientEvent[] = [];
  const client = new DialledClient(
    { ...QUICK, deadlineMs, hosts: [control.host], controlPort: control.port },
    (event) => events.push(event),
  );
  client.start();
  return { client, events, connections: () => connections };
}

test('dialled: the guest asks, the client answers, each connection ends as planned', async (t) => {
  const { client, events, connections } = await dialled(t, {});
  await until(() => client.successes >= 50 && connections() >= 2 * QUICK.openMax);
  const report = await client.stop();
  t.like(report, { dead: 0, wrong: 0, controlsLost: 0 });
  t.deepEqual(report.guest, { lines: 0, wrong: 0, broken: 0, failed: 0 });
  t.true(report.established >= QUICK.openMax);
  t.true(report.connections.every(({ fate }) => fate === 'closed'));
  t.deepEqual(events, []);
});

test('dialled: a wrong line is a wrong connection', async (t) => {
  const { client, events } = await dialled(t, {
    onConverse: (id, port) => {
      const damage = (line: string): string => line.replace('more', 'mere');
      askOn(connect(port, '127.0.0.1'), id, id === 2 ? damage : undefined);
    },
  });
  await until(() => events.length > 0);
  t.like(await client.stop(), { dead: 0, wrong: 1 });
});

test('dialled: a guest that hangs up, and one that never comes, are dead connections', async (t) => {
  const { client, events } = await dialled(
    t,
    {
      onConverse: (id, port) => {
        if (id === 1) return;
        const socket = connect(port, '127.0.0.1');
        askOn(socket, id);
        if (id === 2) socket.once('data', () => socket.resetAndDestroy());
      },
    },
    // A busy host must not make the others look like one that never comes.
    2000,
  );
  await until(() => events.length >= 2);
  t.like(await client.stop(), { dead: 2, wrong: 0 });
});

test('dialled: what the guest found wrong is reported', async (t) => {
  const { client } = await dialled(t, { wrongAtEnd: 3 });
  await until(() => client.successes >= 5);
  t.like((await client.stop()).guest, { wrong: 3 });
});

/* Random answers. */

async function random(
  t: ExecutionContext,
  answersTo: (id: string) => { said: readonly string[]; known: readonly string[] },
) {
  const known = new Map<string, readonly string[]>();
  const socket = createSocket('udp4');
  t.teardown(() => socket.close());
  socket.on('message', (message, from) => {
    const id = message.toString().slice('ask '.length);
    const answer = answersTo(id);
    known.set(id, answer.known);
    for (const said of answer.said) socket.send(said, from.port);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const control = await serve(t, (connection) => {
    createInterface({ input: connection }).on('line', (line) => {
      const [, id = ''] = line.split(' ');
      connection.write(`${['ok', ...(known.get(id) ?? [])].join(' ')}\n`);
    });
  });
  const { port } = socket.address();
  const events: ClientEvent[] = [];
  const client = new RandomClient(
    { host: '127.0.0.1', port, controlPort: control.port, askEveryMs: 2 },
    (event) => events.push(event),
  );
  client.start();
  return { client, events };
}

const A = 'a'.repeat(64);
const B = 'b'.repeat(64);

test('random: answers that the guest knows are no contradiction, even two to one question', async (t) => {
  const { client, events } = await random(t, (id) => ({
    said: [`${id} ${A}`, `${id} ${B}`],
    known: [B, A],
  }));
  await until(() => client.successes >= 10);
  const report = await client.stop();
  t.like(report, { contradictions: 0, stray: 0 });
  t.true(report.answeredTwice >= 9);
  t.deepEqual(events, []);
});

test('random: an answer that the guest does not know is a contradiction', async (t) => {
  let nth = 0;
  const { client, events } = await random(t, (id) => {
    nth++;
    return { said: [`${id} ${A}`], known: nth === 3 ? [B] : nth === 5 ? [] : [A] };
  });
  await until(() => client.successes >= 10);
  t.is(await client.verify(), 2);
  t.is(events.length, 2);
  t.is((await client.stop()).contradictions, 2);
});

test('random: an answer to nothing is stray, no answer is none', async (t) => {
  let nth = 0;
  const { client } = await random(t, (id) => {
    nth++;
    return { said: nth === 2 ? [`1 ${A}`] : [`${id} ${A}`], known: [A] };
  });
  await until(() => client.successes >= 10);
  const report = await client.stop();
  t.like(report, { contradictions: 0, stray: 1 });
  t.true(report.unanswered >= 1);
});
