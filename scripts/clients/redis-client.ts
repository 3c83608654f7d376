/**
 * Redis load in a closed loop over one connection: SET of ever new keys, one at a time, each
 * acknowledged write remembered. `stop` and `verify` read them all back over a new connection: an
 * acknowledged write that is not there was lost, whatever else happened. A connection that breaks
 * is counted and replaced; the write under way then counts as not acknowledged.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { describeError, Histogram } from '../../src/lib/index.js';
import {
  ANSWER_DEADLINE_MS,
  type EventSink,
  type LoadClient,
  type RedisReport,
  type Target,
} from './client.js';
import { nowUs } from './clock.js';
import { Continuity } from './continuity.js';
import type { RespValue } from './resp.js';
import { RespConnection } from './resp-connection.js';

/** Keys per MGET: one reply then is about 10 kB. */
const READ_BACK_KEYS = 500;
const RECONNECT_AFTER_MS = 100;
/**
 * More keys than this run can acknowledge would only fill the guest's memory; the load then pauses.
 */
const KEYS_MAX = 1_000_000;

export interface RedisOptions extends Target {
  readonly tellGapAboveUs: number;
}

export class RedisClient implements LoadClient<RedisReport> {
  readonly #options: RedisOptions;
  readonly #onEvent: EventSink;
  readonly #continuity: Continuity;
  readonly #times = new Histogram();
  /** Keeps the keys of two runs against one guest apart. */
  readonly #run = randomBytes(4).toString('hex');
  readonly #acknowledged: number[] = [];
  #next = 0;
  #lost = 0;
  #refused = 0;
  #stopping = false;
  #connection: RespConnection | undefined;
  #loop: Promise<void> = Promise.resolve();

  constructor(options: RedisOptions, onEvent: EventSink) {
    this.#options = options;
    this.#onEvent = onEvent;
    this.#continuity = new Continuity(options.tellGapAboveUs);
  }

  get successes(): number {
    return this.#acknowledged.length;
  }

  start(): void {
    this.#continuity.start(nowUs());
    this.#loop = this.#loopUntilStopped();
  }

  endWarmUp(): void {
    this.#continuity.restart(nowUs());
  }

  async stop(): Promise<RedisReport> {
    this.#stopping = true;
    const { longest } = this.#continuity.finish(nowUs());
    const timer = setTimeout(() => this.#connection?.close(), ANSWER_DEADLINE_MS);
    await this.#loop;
    clearTimeout(timer);
    return {
      successes: this.successes,
      longestGap: longest,
      connectionsLost: this.#lost,
      acknowledged: this.#acknowledged.length,
      acknowledgedLost: await this.verify(),
      refused: this.#refused,
      medianWriteUs: this.#times.quantile(0.5),
    };
  }

  /** Reads all writes back that are acknowledged by now; undefined if that is not possible. */
  async verify(): Promise<number | undefined> {
    const indexes = this.#acknowledged.slice();
    const untilUs = nowUs() + ANSWER_DEADLINE_MS * 1000;
    for (;;) {
      try {
        return await this.#countMissing(indexes);
      } catch (error) {
        if (nowUs() > untilUs) {
          const reason = `Reading back failed: ${describeError(error)}`;
          this.#onEvent({ type: 'lost', client: 'redis', atUs: nowUs(), reason });
          return undefined;
        }
        await delay(RECONNECT_AFTER_MS);
      }
    }
  }

  async #countMissing(indexes: readonly number[]): Promise<number> {
    const connection = await RespConnection.open(this.#options);
    const timer = setTimeout(() => connection.close(), ANSWER_DEADLINE_MS);
    try {
      let missing = 0;
      for (let at = 0; at < indexes.length; at += READ_BACK_KEYS) {
        const batch = indexes.slice(at, at + READ_BACK_KEYS);
        const reply = await connection.command(['MGET', ...batch.map((i) => this.#key(i))]);
        if (reply.kind !== 'array' || reply.items.length !== batch.length) {
          throw new Error(`MGET answered ${describeReply(reply)}`);
        }
        const { items } = reply;
        missing += batch.filter((index, i) => !holds(items[i], String(index))).length;
        timer.refresh();
      }
      return missing;
    } finally {
      clearTimeout(timer);
      connection.close();
    }
  }

  async #loopUntilStopped(): Promise<void> {
    while (!this.#stopping) {
      try {
        this.#connection = await RespConnection.open(this.#options);
        while (!this.#stopping && this.#next < KEYS_MAX) await this.#write(this.#connection);
      } catch (error) {
        this.#lost++;
        const reason = describeError(error);
        this.#onEvent({ type: 'lost', client: 'redis', atUs: nowUs(), reason });
      }
      this.#connection?.close();
      if (!this.#stopping) await delay(RECONNECT_AFTER_MS);
    }
  }

  async #write(connection: RespConnection): Promise<void> {
    const index = this.#next++;
    const startUs = nowUs();
    const reply = await connection.command(['SET', this.#key(index), String(index)]);
    if (reply.kind !== 'status' || reply.text !== 'OK') {
      this.#refused++;
      return;
    }
    const endUs = nowUs();
    this.#acknowledged.push(index);
    this.#times.add(endUs - startUs);
    const gap = this.#continuity.success(endUs);
    if (gap !== undefined) this.#onEvent({ type: 'gap', client: 'redis', gap });
  }

  #key(index: number): string {
    return `colo:${this.#run}:${index}`;
  }
}

function holds(value: RespValue | undefined, expected: string): boolean {
  return value?.kind === 'bulk' && value.bytes.toString('latin1') === expected;
}

function describeReply(reply: RespValue): string {
  return 'text' in reply ? `${reply.kind} ${JSON.stringify(reply.text)}` : reply.kind;
}
