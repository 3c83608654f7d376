/** The load clients (scripts/clients/main.ts) as a child inside the client's namespace. */
import { appendFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type {
  ClientEvent,
  ClientName,
  ClientReports,
  OpenCount,
  Verification,
} from '../clients/client.js';
import { nowUs } from '../clients/clock.js';
import { Child } from './child.js';
import { withDeadline } from './cleanup.js';

/** Digest fetched and all clients started; a guest under TCG answers its first request slowly. */
const START_DEADLINE_MS = 20_000;
/** Answers still awaited at the stop have 10 s, reading back takes some more. */
const STOP_DEADLINE_MS = 60_000;
const ANSWER_DEADLINE_MS = 5000;
const SUCCESSES_DEADLINE_MS = 60_000;
const POLL_MS = 20;
/** What a rate counts may have happened so long before it. */
const RATE_EVERY_US = 100_000;

export interface ClientProcessOptions {
  /** Prefix that enters the client's namespace, such as `ip netns exec client`. */
  readonly enter: readonly string[];
  /** The compiled tree. */
  readonly buildDir: string;
  readonly target: string;
  /** Which clients run; by default http, redis and stream. */
  readonly clients?: readonly ClientName[];
  /** Gets every event of the clients and what they print on stderr. */
  readonly logPath: string;
  /** More arguments for main.js. */
  readonly args?: readonly string[];
  readonly onEvent?: (event: ClientEvent) => void;
}

/** Successes within the 100 ms before `atUs`. */
export type Rate = { readonly atUs: number } & Readonly<Record<ClientName, number>>;

type Message =
  | ClientEvent
  | { readonly type: 'started'; readonly atUs: number }
  | ({ readonly type: 'rate' } & Rate)
  | ({ readonly type: 'verified' } & Verification)
  | ({ readonly type: 'open-since' } & OpenCount)
  | ({ readonly type: 'report' } & ClientReports);

export class ClientProcess {
  readonly #child: Child;
  readonly #onEvent: (event: ClientEvent) => void;
  readonly #waiting = new Map<Message['type'], (message: Message) => void>();
  readonly rates: Rate[] = [];

  private constructor(options: ClientProcessOptions) {
    this.#onEvent = options.onEvent ?? (() => {});
    this.#child = new Child({
      name: 'clients',
      command: [
        ...options.enter,
        process.execPath,
        `${options.buildDir}/scripts/clients/main.js`,
        '--target',
        options.target,
        ...(options.clients === undefined ? [] : ['--clients', options.clients.join(',')]),
        ...(options.args ?? []),
      ],
      logPath: options.logPath,
      onLine: (line) => {
        appendFileSync(options.logPath, `${line}\n`);
        this.#receive(JSON.parse(line) as Message);
      },
    });
  }

  /** Starts the load; resolves when all clients run. */
  static async start(options: ClientProcessOptions): Promise<ClientProcess> {
    const clients = new ClientProcess(options);
    try {
      await clients.#expect('started', START_DEADLINE_MS);
    } catch (error) {
      clients.kill();
      throw error;
    }
    return clients;
  }

  /** Waits until each of the clients had so many successes after `afterUs`. */
  async waitSuccesses(wanted: {
    readonly names: readonly ClientName[];
    readonly afterUs: number;
    readonly count: number;
    readonly deadlineMs?: number;
  }): Promise<void> {
    const untilUs = nowUs() + (wanted.deadlineMs ?? SUCCESSES_DEADLINE_MS) * 1000;
    for (;;) {
      const rates = this.rates.filter(({ atUs }) => atUs - RATE_EVERY_US > wanted.afterUs);
      const sums = wanted.names.map(
        (name) => [name, sum(rates.map((rate) => rate[name]))] as const,
      );
      const lacking = sums.filter(([, count]) => count < wanted.count);
      if (lacking.length === 0) return;
      if (nowUs() > untilUs) throw new Error(`Too few successes: ${lacking.join(' ')}`);
      await delay(POLL_MS);
    }
  }

  /** Reads all acknowledged writes and random answers back while the load goes on. */
  async verify(): Promise<Verification> {
    const verified = this.#expect('verified', STOP_DEADLINE_MS);
    this.#child.writeLine('verify');
    return await verified;
  }

  /** Connections that are open now and that somebody began to open after `atUs`. */
  async openSince(atUs: number): Promise<OpenCount> {
    const count = this.#expect('open-since', ANSWER_DEADLINE_MS);
    this.#child.writeLine(`open-since ${atUs}`);
    return await count;
  }

  /** Ends the load, verifies and returns what each client saw. */
  async stop(): Promise<ClientReports> {
    const report = this.#expect('report', STOP_DEADLINE_MS);
    this.#child.writeLine('stop');
    const reports = await report;
    await this.#child.stop();
    return reports;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  async #expect<T extends Message['type']>(
    type: T,
    deadlineMs: number,
  ): Promise<Extract<Message, { type: T }>> {
    const message = new Promise<Message>((resolve) => this.#waiting.set(type, resolve));
    const ended = this.#child.ended.then((end) => {
      throw new Error(`The load clients ended early (${end.signal ?? `exit code ${end.code}`})`);
    });
    const what = `The load clients' "${type}"`;
    const first = await withDeadline(Promise.race([message, ended]), deadlineMs, what);
    return first as Extract<Message, { type: T }>;
  }

  #receive(message: Message): void {
    if (message.type === 'gap' || message.type === 'lost') this.#onEvent(message);
    else if (message.type === 'rate') this.rates.push(message);
    else this.#waiting.get(message.type)?.(message);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
