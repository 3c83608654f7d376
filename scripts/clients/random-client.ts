/**
 * Asks the guest's random service, whose answers two copies of a VM never agree on, and remembers
 * every answer. `verify` and `stop` ask the guest what it answered: an answer that was seen and that
 * the guest does not know was said by a guest that never was.
 */
import { createSocket, type Socket } from 'node:dgram';
import { setTimeout as delay } from 'node:timers/promises';
import { describeError, Histogram } from '../../src/lib/index.js';
import {
  ANSWER_DEADLINE_MS,
  type EventSink,
  type LoadClient,
  type RandomReport,
  type Target,
} from './client.js';
import { nowUs } from './clock.js';
import { ControlConnection } from './control-connection.js';

/** Half of what the guest remembers (datagrams.c); the load then pauses. */
const QUESTIONS_MAX = 32_768;
/** Commands under way at once; the answers to them are about 20 kB. */
const VERIFY_BATCH = 250;
const RETRY_AFTER_MS = 100;

export interface RandomOptions extends Target {
  readonly controlPort: number;
  /** Mean time from one question to the next. */
  readonly askEveryMs: number;
}

interface Question {
  readonly askedUs: number;
  /** More than one if the question or an answer came twice. */
  readonly seen: Set<string>;
}

export class RandomClient implements LoadClient<RandomReport> {
  readonly #options: RandomOptions;
  readonly #onEvent: EventSink;
  readonly #socket: Socket;
  readonly #times = new Histogram();
  readonly #questions = new Map<string, Question>();
  /** Keeps the ids of two runs against one guest apart. */
  readonly #firstId = Math.floor(Math.random() * 2 ** 30) * 2 ** 20;
  #stray = 0;
  #timer: NodeJS.Timeout | undefined;
  successes = 0;

  constructor(options: RandomOptions, onEvent: EventSink) {
    this.#options = options;
    this.#onEvent = onEvent;
    this.#socket = createSocket(options.host.includes(':') ? 'udp6' : 'udp4');
    this.#socket.on('message', (message) => this.#receive(message.toString('latin1')));
    this.#socket.on('error', (error) => this.#tell(describeError(error)));
  }

  start(): void {
    this.#socket.connect(this.#options.port, this.#options.host, () => this.#askLater());
  }

  endWarmUp(): void {}

  async stop(): Promise<RandomReport> {
    clearTimeout(this.#timer);
    const contradictions = await this.verify();
    this.#socket.close();
    const questions = [...this.#questions.values()];
    return {
      successes: this.successes,
      asked: questions.length,
      unanswered: questions.filter(({ seen }) => seen.size === 0).length,
      answeredTwice: questions.filter(({ seen }) => seen.size > 1).length,
      stray: this.#stray,
      contradictions,
      medianAnswerUs: this.#times.quantile(0.5),
    };
  }

  /** How many answers seen by now the guest does not know; undefined if it can't be asked. */
  async verify(): Promise<number | undefined> {
    const seen = [...this.#questions].map(([id, question]) => [id, [...question.seen]] as const);
    const untilUs = nowUs() + ANSWER_DEADLINE_MS * 1000;
    for (;;) {
      try {
        return await this.#countUnknown(seen.filter(([, answers]) => answers.length > 0));
      } catch (error) {
        if (nowUs() > untilUs) {
          this.#tell(`The guest can't be asked: ${describeError(error)}`);
          return undefined;
        }
        await delay(RETRY_AFTER_MS);
      }
    }
  }

  async #countUnknown(seen: readonly (readonly [string, readonly string[]])[]): Promise<number> {
    const { host, controlPort } = this.#options;
    const control = await ControlConnection.open({ host, port: controlPort });
    let unknown = 0;
    try {
      for (let at = 0; at < seen.length; at += VERIFY_BATCH) {
        const batch = seen.slice(at, at + VERIFY_BATCH);
        const told = await Promise.all(batch.map(([id]) => control.command(`answered ${id}`)));
        for (const [i, [id, answers]] of batch.entries()) {
          const known = told[i]?.split(' ') ?? [];
          for (const answer of answers.filter((one) => !known.includes(one))) {
            unknown++;
            this.#tell(`the guest does not know its answer ${answer} to ${id}`);
          }
        }
      }
      return unknown;
    } finally {
      control.close();
    }
  }

  #askLater(): void {
    const waitMs = this.#options.askEveryMs * (0.5 + Math.random());
    this.#timer = setTimeout(() => {
      if (this.#questions.size < QUESTIONS_MAX) this.#ask();
      this.#askLater();
    }, waitMs);
  }

  #ask(): void {
    const id = String(this.#firstId + this.#questions.size);
    this.#questions.set(id, { askedUs: nowUs(), seen: new Set() });
    this.#socket.send(`ask ${id}`);
  }

  #receive(text: string): void {
    const [, id = '', answer = ''] = /^(\d+) ([0-9a-f]{64})$/.exec(text) ?? [];
    const question = this.#questions.get(id);
    if (question === undefined) {
      this.#stray++;
      this.#tell(`${JSON.stringify(text.slice(0, 100))} answers nothing`);
      return;
    }
    if (question.seen.size === 0) {
      this.successes++;
      this.#times.add(nowUs() - question.askedUs);
    }
    question.seen.add(answer);
  }

  #tell(reason: string): void {
    this.#onEvent({ type: 'lost', client: 'random', atUs: nowUs(), reason });
  }
}
