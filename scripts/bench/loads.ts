/**
 * The loads of the bench, each as closed loops of so many workers for so many seconds. In: a target
 * and a shape. Out: how much was done a second, and how long each took. Any failed request rejects:
 * a rate with failures in it is no measurement.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect } from 'node:net';
import { Histogram } from '../../src/lib/index.js';
import { ANSWER_DEADLINE_MS } from '../clients/client.js';
import { nowUs } from '../clients/clock.js';
import { httpGet } from '../clients/http-client.js';
import { HttpResponse } from '../clients/http-response.js';
import { RespConnection } from '../clients/resp-connection.js';

const PAGE = '/index.html';
const BIG = '/big';
const UPLOAD_CHUNK = Buffer.alloc(64 << 10, 'colo');
/** SET goes round over these keys, so that the guest's memory does not fill. */
const KEYS = 1000;

export interface LoadShape {
  readonly host: string;
  readonly seconds: number;
  readonly concurrency: number;
}

/** `perSecond` counts requests, or bytes for the bulk loads. */
export interface LoadResult {
  readonly perSecond: number;
  readonly medianUs: number;
  readonly p99Us: number;
  /** CPU time of this process while the load ran, as a share of one core. */
  readonly cpuShare: number;
}

export const LOADS = { httpNew, httpKeepAlive, redisSet, udpEcho, download, upload } as const;
export type LoadName = keyof typeof LOADS;

/** Fetches of a small page, a new connection for each. */
export async function httpNew(shape: LoadShape): Promise<LoadResult> {
  const target = { host: shape.host, port: 80 };
  return closedLoops(shape, async () => ({
    request: async () => {
      await httpGet(target, PAGE, () => {});
    },
    close: () => {},
  }));
}

/** Fetches of a small page, one connection a worker. */
export async function httpKeepAlive(shape: LoadShape): Promise<LoadResult> {
  const bytes = `GET ${PAGE} HTTP/1.1\r\nHost: ${shape.host}\r\n\r\n`;
  return closedLoops(shape, async () => {
    const socket = connect({ host: shape.host, port: 80, noDelay: true });
    await once(socket, 'connect');
    const inbox = new Inbox();
    socket.on('data', (chunk) => inbox.put(chunk));
    socket.on('close', () => inbox.fail(new Error(`${PAGE}: the connection was closed`)));
    return {
      request: async () => {
        const response = new HttpResponse();
        socket.write(bytes);
        while (!response.done) response.write(await inbox.take());
        if (response.status !== 200) throw new Error(`${PAGE}: the status is ${response.status}`);
      },
      close: () => {
        inbox.close();
        socket.destroy();
      },
    };
  });
}

/** SET, each acknowledged before the next, one connection a worker. */
export async function redisSet(shape: LoadShape): Promise<LoadResult> {
  let next = 0;
  return closedLoops(shape, async () => {
    const connection = await RespConnection.open({ host: shape.host, port: 6379 });
    return {
      request: async () => {
        const reply = await connection.command(['SET', `bench:${next++ % KEYS}`, 'x'.repeat(32)]);
        if (reply.kind !== 'status') throw new Error(`SET was answered with ${reply.kind}`);
      },
      close: () => connection.close(),
    };
  });
}

/** Datagrams to and fro, one at a time a worker. */
export async function udpEcho(shape: LoadShape): Promise<LoadResult> {
  return closedLoops(shape, async () => {
    const socket = createSocket('udp4');
    socket.connect(7003, shape.host);
    await once(socket, 'connect');
    const inbox = new Inbox();
    socket.on('message', (answer) => inbox.put(answer));
    socket.on('error', (error) => inbox.fail(error));
    return {
      request: () => echo(socket, inbox),
      close: () => {
        inbox.close();
        socket.close();
      },
    };
  });
}

/** The large file, again and again over new connections. */
export async function download(shape: LoadShape): Promise<LoadResult> {
  return bulk(shape, async (untilUs) => {
    let bytes = 0;
    while (nowUs() < untilUs) {
      bytes += await httpGet({ host: shape.host, port: 80 }, BIG, () => {});
    }
    return bytes;
  });
}

/** Bytes into the guest's sink; counted are those that the guest says it received. */
export async function upload(shape: LoadShape): Promise<LoadResult> {
  return bulk(shape, async (untilUs) => {
    const socket = connect({ host: shape.host, port: 7002, noDelay: true, allowHalfOpen: true });
    try {
      await once(socket, 'connect', { signal: deadline() });
      while (nowUs() < untilUs) {
        if (!socket.write(UPLOAD_CHUNK)) await once(socket, 'drain', { signal: deadline() });
      }
      socket.end();
      const [answer] = await once(socket, 'data', { signal: deadline() });
      return Number(String(answer).trim());
    } finally {
      socket.destroy();
    }
  });
}

interface Worker {
  request(): Promise<void>;
  close(): void;
}

async function closedLoops(shape: LoadShape, open: () => Promise<Worker>): Promise<LoadResult> {
  const times = new Histogram();
  const workers = await Promise.all(Array.from({ length: shape.concurrency }, open));
  try {
    // One request each before the clock starts: connections and caches are warm.
    await Promise.all(workers.map((worker) => worker.request()));
    const startUs = nowUs();
    const cpu = process.cpuUsage();
    const untilUs = startUs + shape.seconds * 1e6;
    await Promise.all(workers.map((worker) => repeat(worker, untilUs, times)));
    return {
      perSecond: (times.count * 1e6) / (nowUs() - startUs),
      cpuShare: cpuShareSince(cpu, startUs),
      medianUs: times.quantile(0.5),
      p99Us: times.quantile(0.99),
    };
  } finally {
    for (const worker of workers) worker.close();
  }
}

async function repeat(worker: Worker, untilUs: number, times: Histogram): Promise<void> {
  let startUs = nowUs();
  while (startUs < untilUs) {
    await worker.request();
    const endUs = nowUs();
    times.add(endUs - startUs);
    startUs = endUs;
  }
}

async function bulk(
  shape: LoadShape,
  transfer: (untilUs: number) => Promise<number>,
): Promise<LoadResult> {
  const startUs = nowUs();
  const cpu = process.cpuUsage();
  const untilUs = startUs + shape.seconds * 1e6;
  const transfers = Array.from({ length: shape.concurrency }, () => transfer(untilUs));
  const bytes = (await Promise.all(transfers)).reduce((sum, count) => sum + count, 0);
  const perSecond = (bytes * 1e6) / (nowUs() - startUs);
  return { perSecond, cpuShare: cpuShareSince(cpu, startUs), medianUs: 0, p99Us: 0 };
}

async function echo(socket: UdpSocket, inbox: Inbox): Promise<void> {
  const text = String(nowUs());
  socket.send(text);
  while (String(await inbox.take()) !== text);
}

/**
 * What arrives for one worker. `once` with an AbortSignal for every answer would cost more than the
 * answer itself.
 */
class Inbox {
  readonly #waiting: Buffer[] = [];
  #failure: Error | undefined;
  #taker: { resolve(bytes: Buffer): void; reject(error: Error): void } | undefined;
  readonly #timer = setTimeout(
    () => this.fail(new Error(`No answer within ${ANSWER_DEADLINE_MS} ms`)),
    ANSWER_DEADLINE_MS,
  );

  put(bytes: Buffer): void {
    const taker = this.#taker;
    this.#taker = undefined;
    if (taker === undefined) this.#waiting.push(bytes);
    else taker.resolve(bytes);
  }

  fail(error: Error): void {
    this.#failure ??= error;
    this.#taker?.reject(this.#failure);
  }

  /** One taker at a time; rejects on failure and after `ANSWER_DEADLINE_MS`. */
  take(): Promise<Buffer> {
    const first = this.#waiting.shift();
    if (first !== undefined) return Promise.resolve(first);
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    this.#timer.refresh();
    return new Promise((resolve, reject) => {
      this.#taker = { resolve, reject };
    });
  }

  close(): void {
    clearTimeout(this.#timer);
  }
}

function cpuShareSince(start: NodeJS.CpuUsage, startUs: number): number {
  const { user, system } = process.cpuUsage(start);
  return (user + system) / (nowUs() - startUs);
}

function deadline(): AbortSignal {
  return AbortSignal.timeout(ANSWER_DEADLINE_MS);
}
