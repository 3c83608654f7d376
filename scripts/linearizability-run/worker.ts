/**
 * Clients of redis in the client's namespace, each with one connection and one operation at a time,
 * on a few registers that all of them use:
 *
 *     node worker.js --target 10.77.0.10 --history FILE [--clients 8] [--registers 10]
 *
 * GET, SET, and GETSET, which is both at once; each value is written once. Stdout is JSON lines:
 * `count` every 100 ms with the operations answered so far, and last `done`. A line on stdin, or its
 * end, ends the load; then the history is in the file. What is under way when a connection breaks,
 * or when the answer takes too long, has no answer in it.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { ANSWER_DEADLINE_MS } from '../clients/client.js';
import { nowUs } from '../clients/clock.js';
import type { RespValue } from '../clients/resp.js';
import { RespConnection } from '../clients/resp-connection.js';
import type { Recorded } from './history.js';

const COUNT_EVERY_MS = 100;
const RECONNECT_AFTER_MS = 100;
/** Between two operations of a client, on average: so that registers are fought for, at leisure. */
const PAUSE_MS_MAX = 40;

const { values: options } = parseArgs({
  options: {
    target: { type: 'string', default: '' },
    port: { type: 'string', default: '6379' },
    history: { type: 'string', default: '' },
    clients: { type: 'string', default: '8' },
    registers: { type: 'string', default: '10' },
  },
});

const target = { host: options.target, port: Number(options.port) };
const registers = Number(options.registers);
const run = randomBytes(4).toString('hex');
const history: Recorded[] = [];
let answered = 0;
let connectionsLost = 0;
let stopping = false;

async function client(name: number): Promise<void> {
  let written = 0;
  while (!stopping) {
    let connection: RespConnection | undefined;
    try {
      connection = await RespConnection.open(target);
      while (!stopping) {
        written += 1;
        await operate(connection, `${name}.${written}`);
        await delay(Math.random() * PAUSE_MS_MAX);
      }
    } catch {
      connectionsLost += 1;
      await delay(RECONNECT_AFTER_MS);
    }
    connection?.close();
  }
}

/** One operation, recorded whether it is answered or not; rejects when the connection is broken. */
async function operate(connection: RespConnection, value: string): Promise<void> {
  const key = `register:${run}:${Math.floor(Math.random() * registers)}`;
  const dice = Math.random();
  const kind = dice < 0.5 ? 'read' : dice < 0.8 ? 'write' : 'swap';
  const words = kind === 'read' ? ['GET', key] : [kind === 'write' ? 'SET' : 'GETSET', key, value];
  const called = { key, kind, writes: kind === 'read' ? null : value, calledUs: nowUs() } as const;
  const timer = setTimeout(() => connection.close(), 3 * ANSWER_DEADLINE_MS);
  try {
    const reply = await connection.command(words);
    const answeredUs = nowUs();
    if (kind === 'write') {
      if (reply.kind !== 'status') throw new Error(`SET answered ${reply.kind}`);
      history.push({ ...called, answeredUs });
    } else history.push({ ...called, answeredUs, reads: valueIn(reply) });
    answered += 1;
  } catch (error) {
    history.push(called);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function valueIn(reply: RespValue): string | null {
  if (reply.kind === 'null') return null;
  if (reply.kind !== 'bulk') throw new Error(`GET answered ${reply.kind}`);
  return reply.bytes.toString('latin1');
}

const lines = createInterface({ input: process.stdin });
lines.on('line', () => {
  stopping = true;
});
lines.on('close', () => {
  stopping = true;
});
const tell = (message: object): void => console.log(JSON.stringify(message));
const counting = setInterval(
  () => tell({ type: 'count', answered, connectionsLost }),
  COUNT_EVERY_MS,
);
await Promise.all(Array.from({ length: Number(options.clients) }, (_, name) => client(name)));
clearInterval(counting);
lines.close();
process.stdin.destroy();
writeFileSync(options.history, history.map((each) => `${JSON.stringify(each)}\n`).join(''));
tell({ type: 'done', answered, connectionsLost });
