/** Two guards in threads of their own, over loopback, with a witness in a shared folder. */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { EventEmitter, once } from 'node:events';
import test, { type ExecutionContext } from 'ava';
import {
  createLeaseMemory,
  GuardClient,
  type GuardNews,
  HEARTBEAT_BYTES,
  HEARTBEAT_KEY_BYTES,
  OutputLease,
} from '../../../../src/failover/index.js';
import { bootTimeUs } from '../../../../src/linux/index.js';
import { temporaryFolder } from '../../../support/temporary.js';

const PROMISE_US = 1_000_000;
const ADDRESSES = ['127.0.0.1', '127.0.0.2'];

class Side {
  readonly news: GuardNews[] = [];
  readonly client: GuardClient;
  readonly lease: OutputLease;
  readonly #arrived = new EventEmitter();

  constructor(t: ExecutionContext, role: 'primary' | 'secondary', folder: string) {
    const memory = createLeaseMemory();
    this.lease = new OutputLease(memory);
    this.client = new GuardClient({
      settings: {
        role,
        promiseUs: PROMISE_US,
        heartbeatUs: 50_000,
        takesRisk: false,
        knownToken: 0,
        identity: { vm: 'web', host: `host of ${role}`, role, instance: `i-${role}` },
        witness: { kind: 'file', folder },
        witnessTtlUs: 2_000_000,
        witnessTimeoutUs: 1_000_000,
        gateway: undefined,
        lease: memory,
      },
      log: { debug() {}, info() {}, warn() {}, error() {} },
      onNews: (news) => {
        this.news.push(news);
        this.#arrived.emit('news');
      },
      onFailure: (error) => t.fail(error.stack),
    });
    t.teardown(() => this.client.stop('The test is over'));
  }

  async until(kind: GuardNews['kind']): Promise<GuardNews> {
    for (;;) {
      const found = this.news.find((news) => news.kind === kind);
      if (found !== undefined) return found;
      await once(this.#arrived, 'news');
    }
  }
}

/** Connected by two paths, the first of which may be left out. */
async function protectedPair(t: ExecutionContext, options: { firstPath: boolean }) {
  const folder = temporaryFolder(t);
  const [a, b] = [new Side(t, 'primary', folder), new Side(t, 'secondary', folder)];
  const [portsA, portsB] = await Promise.all([
    a.client.listen(ADDRESSES),
    b.client.listen(ADDRESSES),
  ]);
  const key = randomBytes(HEARTBEAT_KEY_BYTES);
  const peers = (ports: number[]) =>
    ports.map((port, index) => ({
      address: ADDRESSES[index] as string,
      // The discard port: nobody listens there.
      port: index === 0 && !options.firstPath ? 9 : port,
    }));
  a.client.connect(peers(portsB), key, 'offering');
  b.client.connect(peers(portsA), key, 'accepting');
  for (const side of [a, b]) side.client.input({ kind: 'joined' });
  await a.until('goAlone');
  await a.until('speak');
  a.client.input({ kind: 'protecting', session: 1 });
  const { token } = await a.client.status();
  b.client.input({ kind: 'standby', session: 1, token });
  return { a, b, portsA, token };
}

test('a main thread that is busy delays no heartbeat and ends no lease', async (t) => {
  const { a, b } = await protectedPair(t, { firstPath: true });
  const [newsA, newsB] = [a.news.length, b.news.length];
  // Longer than the promise, shorter than what counts as hung.
  const untilUs = bootTimeUs() + 1.5 * PROMISE_US;
  let allowed = true;
  while (allowed && bootTimeUs() < untilUs) allowed = a.lease.allows(bootTimeUs());
  t.true(allowed);
  const { permit, peer } = await a.client.status();
  t.deepEqual([permit.kind, peer.kind], ['speaking', 'alive']);
  const bad = [...a.news.slice(newsA), ...b.news.slice(newsB)].filter(
    (news) => news.kind === 'fallSilent' || (news.kind === 'peer' && news.view.kind === 'lost'),
  );
  t.deepEqual(bad, []);
});

test('one path is enough; a standby takes over from a speaker that is gone', async (t) => {
  const { a, b, token } = await protectedPair(t, { firstPath: false });
  t.false(b.lease.allows(bootTimeUs()));
  await a.client.stop('Gone');
  t.false(a.lease.allows(bootTimeUs()));
  for (;;) {
    const view = (await b.client.status()).peer;
    if (view.kind === 'lost') break;
    await new Promise((resolve) => setImmediate(resolve));
  }
  b.client.input({ kind: 'peerLost', proof: false });
  const news = await b.until('takeOver');
  t.true(news.kind === 'takeOver' && news.token > token);
  await b.until('speak');
  t.true(b.lease.allows(bootTimeUs()));
});

test('strange datagrams are counted, and change nothing', async (t) => {
  const { a, portsA } = await protectedPair(t, { firstPath: true });
  const stranger = createSocket('udp4');
  t.teardown(() => stranger.close());
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(HEARTBEAT_BYTES), randomBytes(1400)]) {
    stranger.send(bytes, portsA[0] as number, ADDRESSES[0]);
  }
  while ((await a.client.status()).strangeDatagrams < 3) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.is((await a.client.status()).permit.kind, 'speaking');
});
