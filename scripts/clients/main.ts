/**
 * The load clients as one process inside the client's network namespace:
 *
 *     node main.js --target 10.77.0.10 [--clients http,redis,stream] [--http-interval-ms 100] ...
 *
 * Stdout is JSON lines: `started` after the warm-up, `rate` every 100 ms (successes since the last
 * one), `gap`, `lost`, `verified`, and last `report`. Stdin takes one command a line: `verify`
 * reads all acknowledged writes back while the load goes on; `stop` ends the load, verifies and
 * reports. The process also ends when stdin does, so that it never outlives its parent.
 */
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { describeError } from '../../src/lib/index.js';
import type { ClientName, ClientReports } from './client.js';
import { nowUs } from './clock.js';
import { HttpClient, httpGet } from './http-client.js';
import { RedisClient } from './redis-client.js';
import { StreamClient } from './stream-client.js';

const RATE_EVERY_MS = 100;
const DIGEST_BYTES_MAX = 4096;

const { values: options } = parseArgs({
  options: {
    target: { type: 'string' },
    clients: { type: 'string', default: 'http,redis,stream' },
    'http-interval-ms': { type: 'string', default: '100' },
    'gap-ms': { type: 'string', default: '300' },
    'warm-up-ms': { type: 'string', default: '0' },
    'http-port': { type: 'string', default: '80' },
    'redis-port': { type: 'string', default: '6379' },
    'stream-port': { type: 'string', default: '7000' },
  },
});

interface Clients {
  readonly http: HttpClient | undefined;
  readonly redis: RedisClient | undefined;
  readonly stream: StreamClient | undefined;
}

async function createClients(host: string): Promise<Clients> {
  const wanted = options.clients.split(',');
  const tellGapAboveUs = Number(options['gap-ms']) * 1000;
  const has = (name: ClientName): boolean => wanted.includes(name);
  const port = (name: ClientName): number => Number(options[`${name}-port`]);
  const http = {
    host,
    port: port('http'),
    path: '/file',
    intervalMs: Number(options['http-interval-ms']),
    tellGapAboveUs,
  };
  return {
    http: has('http')
      ? new HttpClient({ ...http, sha256: await fetchDigest(http) }, tell)
      : undefined,
    redis: has('redis')
      ? new RedisClient({ host, port: port('redis'), tellGapAboveUs }, tell)
      : undefined,
    stream: has('stream')
      ? new StreamClient({ host, port: port('stream'), tellGapAboveUs }, tell)
      : undefined,
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
  const before: Record<ClientName, number> = { http: 0, redis: 0, stream: 0 };
  return setInterval(() => {
    const rate: Record<string, unknown> = { type: 'rate', atUs: nowUs() };
    for (const name of ['http', 'redis', 'stream'] as const) {
      const successes = clients[name]?.successes ?? 0;
      rate[name] = successes - before[name];
      before[name] = successes;
    }
    tell(rate);
  }, RATE_EVERY_MS);
}

async function stop(clients: Clients): Promise<ClientReports> {
  const [http, redis, stream] = await Promise.all([
    clients.http?.stop(),
    clients.redis?.stop(),
    clients.stream?.stop(),
  ]);
  return {
    ...(http === undefined ? {} : { http }),
    ...(redis === undefined ? {} : { redis }),
    ...(stream === undefined ? {} : { stream }),
  };
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
    tell({ type: 'verified', acknowledgedLost: await clients.redis?.verify() });
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
