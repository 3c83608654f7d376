/**
 * Failovers in both directions under clients that fight for a few registers in the guest's redis,
 * and what the history of it all comes to.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Child } from '../harness/child.js';
import { GUEST_ADDRESS, type HostName } from '../harness/lab.js';
import type { PairLab } from '../harness/pair-lab.js';
import { type Judged, judgeHistory, parseHistory } from './history.js';

/** Operations that must be answered between two faults, and after the last one. */
const ANSWERED_BETWEEN = 200;
const ANSWERED_DEADLINE_MS = 90_000;
const STOP_DEADLINE_MS = 60_000;
const POLL_MS = 20;

export interface RunOptions {
  readonly failovers: number;
  readonly clients: number;
  readonly registers: number;
  readonly onFailover: (text: string) => void;
}

export interface Outcome extends Judged {
  readonly failovers: number;
  readonly connectionsLost: number;
}

/** The pair is protected and its guest serves. The host that serves is killed, again and again. */
export async function runFailovers(pair: PairLab, options: RunOptions): Promise<Outcome> {
  const load = new Load(pair, options);
  await load.answered(ANSWERED_BETWEEN);
  let [serving, other]: [HostName, HostName] = ['hosta', 'hostb'];
  for (let failover = 1; failover <= options.failovers; failover += 1) {
    await pair.kill(serving);
    [serving, other] = [other, serving];
    const { downtimeMs } = await pair.waitStatus(serving, `failover ${failover}`, (status) => {
      return status.role === 'primary';
    });
    await load.answered(ANSWERED_BETWEEN);
    await pair.restart(other);
    await pair.waitProtected(undefined, serving);
    await load.answered(ANSWERED_BETWEEN);
    options.onFailover(`failover ${failover}: ${serving} took over within ${downtimeMs} ms`);
  }
  const history = parseHistory(await load.stop());
  const { connectionsLost } = load;
  return { failovers: options.failovers, connectionsLost, ...judgeHistory(history) };
}

type Message = {
  readonly type: 'count' | 'done';
  readonly answered: number;
  readonly connectionsLost: number;
};

/** The worker's process. */
class Load {
  connectionsLost = 0;
  readonly #child: Child;
  readonly #path: string;
  #answered = 0;

  constructor(pair: PairLab, { clients, registers }: RunOptions) {
    this.#path = join(pair.directory, 'history.jsonl');
    this.#child = new Child({
      name: 'registers',
      command: [
        ...pair.lab.client.enter,
        ...[process.execPath, join(pair.buildDir, 'scripts/linearizability-run/worker.js')],
        ...['--target', GUEST_ADDRESS, '--history', this.#path],
        ...['--clients', String(clients), '--registers', String(registers)],
      ],
      logPath: join(pair.directory, 'registers.log'),
      onLine: (line) => {
        const message = JSON.parse(line) as Message;
        this.#answered = message.answered;
        this.connectionsLost = message.connectionsLost;
      },
    });
  }

  /** Waits for so many more. */
  async answered(count: number): Promise<void> {
    const wanted = this.#answered + count;
    const untilMs = performance.now() + ANSWERED_DEADLINE_MS;
    while (this.#answered < wanted) {
      if (this.#child.end !== undefined) throw new Error('The clients ended early');
      if (performance.now() > untilMs) {
        throw new Error(`${this.#answered} operations answered, not ${wanted}`);
      }
      await delay(POLL_MS);
    }
  }

  /** The history. */
  async stop(): Promise<string> {
    this.#child.writeLine('stop');
    const ended = await Promise.race([this.#child.ended, delay(STOP_DEADLINE_MS, undefined)]);
    if (ended?.code !== 0) throw new Error('The clients did not end in order');
    return readFile(this.#path, 'utf8');
  }
}
