/**
 * The load clients as one process inside the client's network namespace:
 *
 *     node main.js --target 10.77.0.10 [--clients http,redis,...] [--http-interval-ms 100] ...
 *
 * Stdout is JSON lines: `started` after the warm-up, `rate` every 100 ms (successes since the last
 * one), `gap`, `lost`, `verified`, `open-since`, and last `report`. Stdin takes one command a line:
 * `verify` reads all acknowledged writes and all random answers back while the load goes on;
 * `open-since <us>` counts connections that are open and were begun after that time; `stop` ends the
 * load, verifies and reports. The process also ends when stdin does, so that it never outlives its
 * parent.
 */
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { describeError } from '../../src/lib/index.js';
import { AcceptedClient } from './accepted-client.js';
import {
  ANSWER_DEADLINE_MS,
  CLIENT_NAMES,
  type ClientName,
  type ClientReports,
  type OpenCount,
  TIMED_CLIENTS,
  type Verification,
} from './client.js';
import { nowUs } from './clock.js';
import { DialledClient } from './dialled-client.js';
import { HttpClient, httpGet } from './http-client.js';
import { RandomClient } from './random-client.js';
import { RedisClient } from './redis-client.js';
import { StreamClient } from './stream-client.js';

const RATE_EVERY_MS = 100;
const DIGEST_BYTES_MAX = 4096;

/** So many connections are open at once, of each kind. */
const OPEN_MAX = { accepted: 32, dialled: 16 };
/** Some of them are quiet when a fault comes. */
const PAUSE_MS_MAX = 1000;

const { values: options } = parseArgs({
  options: {
    target: { type: 'string' },
    target6: { type: 'string' },
    clients: { type: 'string', default: TIMED_CLIENTS.join(',') },
    'http-interval-ms': { type: 'string', default: '100' },
    'accepted-interval-ms': { type: 'string', default: '150' },
    'dialled-interval-ms': { type: 'string', default: '250' },
    'random-interval-ms': { type: 'string', default: '100' },
    'gap-ms': { type: 'string', default: '300' },
    'warm-up-ms': { type: 'string', default: '0' },
    'http-port': { type: 'string', default: '80' },
    'redis-port': { type: 'string', default: '6379' },
    'stream-port': { type: 'string', default: '7000' },
    'control-port': { type: 'string', default: '7001' },
    'random-port': { type: 'string', default: '7004' },
    'dialogue-port': { type: 'string', default: '7005' },
  },
});

interface Clients {
  readonly http: HttpClient | undefined;
  readonly redis: RedisClient | undefined;
  readonly stream: StreamClient | undefined;
  readonly accepted: AcceptedClient | undefined;
  readonly dialled: DialledClient | undefined;
  readonly random: RandomClient | undefined;
}

async function createClients(host: string): Promise<Clients> {
  const wanted = options.clients.split(',');
  const unknown = wanted.find((name) => !CLIENT_NAMES.some((known) => known === name));
  if (unknown !== undefined) throw new Error(`--clients: there is no client "${unknown}"`);
  const deadlineMs = ANSWER_DEADLINE_MS;
  const tellGapAboveUs = Number(options['gap-ms']) * 1000;
  const controlPort = Number(options['control-port']);
  const hosts = options.target6 === undefined ? [host] : [host, options.target6];
  const make = <T>(name: ClientName, create: () => T): T | undefined =>
    wanted.includes(name) ? create() : undefined;
  const http = {
    host,
    port: Number(options['http-port']),
    path: '/file',
    intervalMs: Number(options['http-interval-ms']),
    tellGapAboveUs,
  };
  const sha256 = wanted.includes('http') ? await fetchDigest(http) : '';
  return {
    http: make('http', () => new HttpClient({ ...http, sha256 }, tell)),
    redis: make('redis', () => {
      return new RedisClient({ host, port: Number(options['redis-port']), tellGapAboveUs }, tell);
    }),
    stream: make('stream', () => {
      return new StreamClient({ host, port: Number(options['stream-port']), tellGapAboveUs }, tell);
    }),
    accepted: make('accepted', () => {
      const openEveryMs = Number(options['accepted-interval-ms']);
      const port = Number(options['dialogue-port']);
      const limits = { openMax: OPEN_MAX.accepted, pauseMsMax: PAUSE_MS_MAX, deadlineMs };
      return new AcceptedClient({ hosts, port, openEveryMs, ...limits }, tell);
    }),
    dialled: make('dialled', () => {
      const openEveryMs = Number(options['dialled-interval-ms']);
      const openMax = OPEN_MAX.dialled;
      return new DialledClient({ hosts, controlPort, openEveryMs, openMax, deadlineMs }, tell);
    }),
    random: make('random', () => {
      const askEveryMs = Number(options['random-interval-ms']);
      const port = Number(options['random-port']);
      return new RandomClient({ host, port, controlPort, askEveryMs }, tell);
    }),
  };
}

/** The digest that the guest's image was built with, read once before the load. */
async function fetchDigest(target: { host: string; port: number; path: string }): Promise<string> {
  let text = '';
  await httpGet(target, `${target.path}.sha256`, (piece) => {
    if (text.length < DIGEST_BYTES_MAX) text += piece.toString('latin1');
  });
  const digest = /^[0-9a-f]{64}/.exec(text)?.[0];
  if (digest === undefined) throw new Error(`${target.path}.sha256 holds no SHA-256`);
  return digest;
}

function tell(event: object): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

function tellRates(clients: Clients): NodeJS.Timeout {
  const before = new Map<ClientName, number>();
  return setInterval(() => {
    const rate: Record<string, unknown> = { type: 'rate', atUs: nowUs() };
    for (const name of CLIENT_NAMES) {
      const successes = clients[name]?.successes ?? 0;
      rate[name] = successes - (before.get(name) ?? 0);
      before.set(name, successes);
    }
    tell(rate);
  }, RATE_EVERY_MS);
}

async function stop(clients: Clients): Promise<ClientReports> {
  const reports = await Promise.all(
    CLIENT_NAMES.map(async (name) => [name, await clients[name]?.stop()] as const),
  );
  return Object.fromEntries(reports.filter(([, report]) => report !== undefined)) as ClientReports;
}

async function verify(clients: Clients): Promise<Verification> {
  const [acknowledgedLost, contradictions] = await Promise.all([
    clients.redis?.verify(),
    clients.random?.verify(),
  ]);
  return { acknowledgedLost, contradictions };
}

async function main(): Promise<void> {
  const host = options.target;
  if (host === undefined) throw new Error('--target is missing: the address of the guest');
  const lines = createInterface({ input: process.stdin });
  lines.on('close', () => process.exit(0));
  const clients = await createClients(host);
  for (const client of Object.values(clients)) client?.start();
  const rates = tellRates(clients);
  await delay(Number(options['warm-up-ms']));
  for (const client of Object.values(clients)) client?.endWarmUp();
  tell({ type: 'started', atUs: nowUs() });
  lines.on('line', (line) => void obey(line.trim(), clients, rates));
}

async function obey(line: string, clients: Clients, rates: NodeJS.Timeout): Promise<void> {
  if (line === 'verify') {
    tell({ type: 'verified', ...(await verify(clients)) });
  } else if (line.startsWith('open-since ')) {
    const atUs = Number(line.slice('open-since '.length));
    const { accepted, dialled } = clients;
    const count: OpenCount = {
      accepted: accepted?.openSince(atUs) ?? 0,
      dialled: dialled?.openSince(atUs) ?? 0,
    };
    tell({ type: 'open-since', ...count });
  } else if (line === 'stop') {
    clearInterval(rates);
    const report = JSON.stringify({ type: 'report', atUs: nowUs(), ...(await stop(clients)) });
    process.stdout.write(`${report}\n`, () => process.exit(0));
  } else {
    tell({ type: 'error', message: `Unknown command ${JSON.stringify(line.slice(0, 40))}` });
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${describeError(error)}\n`);
  process.exit(1);
});
