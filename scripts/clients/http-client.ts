/**
 * HTTP load in an open loop: every N ms a fetch of one file over a new connection starts, however
 * long the earlier ones take, and its SHA-256 is checked.
 *
 * Why an open loop: Linux repeats a lost SYN after one second, so a single fetch that starts while
 * the service is away takes at least that long however soon the service is back. A client that
 * waits for each answer before it asks again would measure that timer. The outage of a service is
 * what a new client sees: the longest time between two completions while fetches start all the
 * time. What the unlucky fetch saw is reported as `slowestFetchUs`.
 */
import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import { describeError, Histogram } from '../../src/lib/index.js';
import {
  ANSWER_DEADLINE_MS,
  type EventSink,
  type HttpReport,
  type LoadClient,
  type Target,
} from './client.js';
import { nowUs } from './clock.js';
import { Continuity } from './continuity.js';
import { HttpResponse } from './http-response.js';

/** Fetches under way at once; more would test the client's socket table, not the guest. */
const CONCURRENT_MAX = 64;

export interface HttpOptions extends Target {
  readonly path: string;
  /** Lower-case hex SHA-256 that every body must have. */
  readonly sha256: string;
  readonly intervalMs: number;
  readonly tellGapAboveUs: number;
}

export class HttpClient implements LoadClient<HttpReport> {
  readonly #options: HttpOptions;
  readonly #onEvent: EventSink;
  readonly #continuity: Continuity;
  readonly #times = new Histogram();
  readonly #underWay = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #started = 0;
  #skipped = 0;
  #lost = 0;
  successes = 0;

  constructor(options: HttpOptions, onEvent: EventSink) {
    this.#options = options;
    this.#onEvent = onEvent;
    this.#continuity = new Continuity(options.tellGapAboveUs);
  }

  start(): void {
    this.#continuity.start(nowUs());
    this.#begin();
    this.#timer = setInterval(() => this.#begin(), this.#options.intervalMs);
  }

  endWarmUp(): void {
    this.#continuity.restart(nowUs());
  }

  async stop(): Promise<HttpReport> {
    clearInterval(this.#timer);
    const { longest } = this.#continuity.finish(nowUs());
    await Promise.all(this.#underWay);
    return {
      successes: this.successes,
      longestGap: longest,
      connectionsLost: this.#lost,
      started: this.#started,
      skipped: this.#skipped,
      medianFetchUs: this.#times.quantile(0.5),
      slowestFetchUs: this.#times.max,
    };
  }

  #begin(): void {
    if (this.#underWay.size >= CONCURRENT_MAX) {
      this.#skipped++;
      return;
    }
    this.#started++;
    const fetch = this.#fetch().finally(() => this.#underWay.delete(fetch));
    this.#underWay.add(fetch);
  }

  async #fetch(): Promise<void> {
    const startUs = nowUs();
    const hash = createHash('sha256');
    try {
      await httpGet(this.#options, this.#options.path, (piece) => hash.update(piece));
      const digest = hash.digest('hex');
      if (digest !== this.#options.sha256) throw new Error(`The body's digest is ${digest}`);
    } catch (error) {
      this.#lost++;
      const reason = `${this.#options.path}: ${describeError(error)}`;
      this.#onEvent({ type: 'lost', client: 'http', atUs: nowUs(), reason });
      return;
    }
    this.successes++;
    this.#times.add(nowUs() - startUs);
    const gap = this.#continuity.success(nowUs());
    if (gap !== undefined) this.#onEvent({ type: 'gap', client: 'http', gap });
  }
}

/**
 * GET over a connection of its own; resolves with the number of body bytes when the whole body of a
 * 200 was handed to `onBody`, rejects on anything else and after `ANSWER_DEADLINE_MS`.
 */
export function httpGet(
  target: Target,
  path: string,
  onBody: (piece: Buffer) => void,
): Promise<number> {
  return new Promise((resolve, reject) => {
    let bodyBytes = 0;
    const response = new HttpResponse((piece) => {
      bodyBytes += piece.length;
      onBody(piece);
    });
    const socket = connect({ host: target.host, port: target.port, noDelay: true });
    const timer = setTimeout(
      () => socket.destroy(new Error(`No complete answer within ${ANSWER_DEADLINE_MS} ms`)),
      ANSWER_DEADLINE_MS,
    );
    socket.on('connect', () =>
      socket.write(`GET ${path} HTTP/1.0\r\nHost: ${target.host}\r\n\r\n`),
    );
    socket.on('data', (chunk) => {
      try {
        response.write(chunk);
      } catch (error) {
        socket.destroy(error as Error);
        return;
      }
      if (response.done) socket.destroy();
    });
    socket.on('end', () => socket.destroy());
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      if (!response.done) reject(new Error('The connection closed before the body was complete'));
      else if (response.status !== 200) reject(new Error(`The status is ${response.status}`));
      else resolve(bodyBytes);
    });
  });
}
