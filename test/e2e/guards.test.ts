/**
 * Two guards on two hosts of the lab, a real etcd on a third: wires are cut and processes stopped,
 * and at no time may both speak. Heartbeats go over the replication link, etcd is on the LAN.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { CLIENT_ADDRESS, startEtcd } from '../../scripts/harness/etcd-in-lab.js';
import { Lab, type Namespace, REPLICATION_ADDRESS } from '../../scripts/harness/lab.js';
import { HEARTBEAT_KEY_BYTES } from '../../src/failover/index.js';
import type { GuardChildOrder, GuardChildSettings } from './guard-child.js';
import { ROOT, run } from './lab-harness.js';

const CHILD = fileURLToPath(new URL('guard-child.js', import.meta.url));

interface Event {
  readonly kind: string;
  readonly [key: string]: unknown;
}

interface Interval {
  readonly fromUs: number;
  readonly untilUs: number;
}

class Guard {
  readonly process: ChildProcess;
  readonly #events: Event[] = [];
  readonly #arrived = new EventEmitter();

  constructor(namespace: Namespace, settings: GuardChildSettings) {
    const command = [...namespace.enter, process.execPath, CHILD, JSON.stringify(settings)];
    this.process = spawn(command[0] as string, command.slice(1), {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: this.process.stdout as NodeJS.ReadableStream });
    lines.on('line', (line) => {
      this.#events.push(JSON.parse(line) as Event);
      this.#arrived.emit('event');
    });
  }

  order(order: GuardChildOrder): void {
    this.process.stdin?.write(`${JSON.stringify(order)}\n`);
  }

  /** Takes everything up to the first event of this kind; ava's time-out is the deadline. */
  async next(kind: string): Promise<Event> {
    for (;;) {
      for (let event = this.#events.shift(); event !== undefined; event = this.#events.shift()) {
        if (event.kind === 'failed') throw new Error(String(event['error']));
        if (event.kind === kind) return event;
      }
      await once(this.#arrived, 'event');
    }
  }

  async spoke(): Promise<Interval[]> {
    this.order({ kind: 'report' });
    return (await this.next('spoke'))['spoke'] as Interval[];
  }
}

interface Pair {
  readonly lab: Lab;
  readonly a: Guard;
  readonly b: Guard;
}

/** A pair that is protected: a speaks by b's confirmations, and nobody has a grant. */
async function startPair(t: ExecutionContext): Promise<Pair> {
  const cleanup = new Cleanup();
  t.teardown(() => cleanup.run());
  const lab = await Lab.up(ROOT, cleanup);
  const etcd = await startEtcd(lab.client, cleanup);
  const settings = (host: 'hosta' | 'hostb'): GuardChildSettings => ({
    role: host === 'hosta' ? 'primary' : 'secondary',
    promiseUs: 1_000_000,
    heartbeatUs: 50_000,
    takesRisk: false,
    knownToken: 0,
    witness: { kind: 'etcd', endpoints: [etcd.endpoint] },
    witnessTtlUs: 2_000_000,
    witnessTimeoutUs: 1_000_000,
    gateway: CLIENT_ADDRESS,
    vm: 'web',
    host,
    address: REPLICATION_ADDRESS[host],
  });
  const a = new Guard(lab.hosta, settings('hosta'));
  const b = new Guard(lab.hostb, settings('hostb'));
  for (const { process: child } of [a, b]) cleanup.add('guard', () => void child.kill('SIGKILL'));
  const [portA, portB] = [await a.next('port'), await b.next('port')];
  const key = randomBytes(HEARTBEAT_KEY_BYTES).toString('hex');
  const meet = (guard: Guard, address: string, port: unknown): void =>
    guard.order({ kind: 'connect', key, peer: { address, port: port as number } });
  meet(a, REPLICATION_ADDRESS.hostb, portB['port']);
  meet(b, REPLICATION_ADDRESS.hosta, portA['port']);
  const { token } = await a.next('goAlone');
  await a.next('speaks');
  a.order({ kind: 'input', input: { kind: 'protecting', session: 1 } });
  b.order({
    kind: 'input',
    input: { kind: 'standby', session: 1, token: token as number },
  });
  return { lab, a, b };
}

async function expectNoOverlap(t: ExecutionContext, { a, b }: Pair): Promise<void> {
  const [spokeA, spokeB] = [await a.spoke(), await b.spoke()];
  for (const one of spokeA) {
    for (const other of spokeB) {
      const apart = one.untilUs < other.fromUs || other.untilUs < one.fromUs;
      t.true(apart, `Both spoke: ${JSON.stringify({ spokeA, spokeB })}`);
    }
  }
}

async function cut(namespace: Namespace, device: string): Promise<void> {
  await run('ip', ['-n', namespace.name, 'link', 'set', device, 'down']);
}

test('the replication link is cut: the speaker goes on alone without a pause', async (t) => {
  const pair = await startPair(t);
  await cut(pair.lab.hosta, 'repl0');
  await pair.a.next('goAlone');
  await pair.b.next('stale');
  t.is((await pair.a.spoke()).length, 1);
  t.deepEqual(await pair.b.spoke(), []);
});

test('the speaker is stopped: the other takes over, and it wakes up fenced', async (t) => {
  const pair = await startPair(t);
  pair.a.process.kill('SIGSTOP');
  await pair.b.next('takeOver');
  await pair.b.next('speaks');
  pair.a.process.kill('SIGCONT');
  await pair.a.next('fenced');
  await expectNoOverlap(t, pair);
  t.is((await pair.b.spoke()).length, 1);
});

test('link and witness are cut from the speaker: it falls silent, the other goes on', async (t) => {
  const pair = await startPair(t);
  await Promise.all([cut(pair.lab.hosta, 'repl0'), cut(pair.lab.hosta, 'lan0')]);
  await pair.b.next('takeOver');
  await pair.b.next('speaks');
  await pair.a.next('silent');
  await expectNoOverlap(t, pair);
});
