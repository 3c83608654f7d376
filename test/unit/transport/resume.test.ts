/** Sessions over a network that cuts their connections. */
import test, { type ExecutionContext } from 'ava';
import { Prng } from '../../../src/lib/index.js';
import {
  CHANNELS,
  type Channel,
  connectSession,
  type Link,
  type LinkReport,
  type LinkSecurity,
  PLAIN,
  type Session,
  WorkerClient,
} from '../../../src/transport/index.js';
import { SeveringProxy } from '../../support/severing-proxy.js';
import { TestPki } from '../../support/test-pki.js';
import type { LinkCalls, LinkNotices } from './link-worker.js';
import { LogCollector, sessionClosed, startListener, takeFrames } from './support.js';

const WITHIN_MS = 60_000;

interface Pair {
  readonly log: LogCollector;
  readonly proxy: SeveringProxy;
  readonly near: Session;
  readonly far: Session;
}

async function sessionThroughProxy(
  t: ExecutionContext,
  {
    nearMs = WITHIN_MS,
    farMs = WITHIN_MS,
    security = PLAIN,
  }: { nearMs?: number; farMs?: number; security?: LinkSecurity } = {},
): Promise<Pair> {
  const listening = await startListener(t, { resumeWithinMs: farMs, security });
  const proxy = await SeveringProxy.start(listening.port);
  t.teardown(() => proxy.stop());
  const next = listening.nextSession();
  const { log } = listening;
  const near = await connectSession({
    ...{ host: '127.0.0.1', port: proxy.port, timeoutMs: 20_000, log },
    resumeWithinMs: nearMs,
    security,
  });
  t.teardown(() => near.destroy());
  return { log, proxy, near, far: await next };
}

/** Resolves once the session has been interrupted and goes on. */
function resumed(session: Session): Promise<void> {
  return new Promise((resolve) => {
    session.onInterruption({ onInterrupted: () => undefined, onResumed: resolve });
  });
}

function interrupted(session: Session): Promise<string> {
  return new Promise((resolve) => {
    session.onInterruption({ onInterrupted: ({ kind }) => resolve(kind), onResumed() {} });
  });
}

/** Puts one link into a worker that sends back what comes. */
async function intoWorker(
  t: ExecutionContext,
  session: Session,
  channel: Channel,
): Promise<{ disorders: unknown[] }> {
  const disorders: unknown[] = [];
  const report = (of: LinkReport): void => session.links[channel].reported(of);
  const client = new WorkerClient<LinkCalls, LinkNotices>(
    new URL('./link-worker.js', import.meta.url),
    {
      ...{ name: 'links', log: new LogCollector() },
      notices: { disorder: (...numbers) => disorders.push(numbers), over: report, state: report },
      onFailure: (error) => t.fail(error.message),
    },
  );
  t.teardown(() => client.terminate());
  const detached = await session.detachLink(channel, {
    close: () => client.notify('close'),
    destroy: () => client.notify('destroy'),
    renew: () => client.notify('renew'),
    reconnect: (connection) => client.notify('reconnect', connection),
  });
  await client.call('attach', detached, 0);
  return { disorders };
}

/** Sends back what comes, in this thread. */
function echo(link: Link): void {
  link.onFrame(({ type, payload }) => link.send(type, [payload]));
}

/** Sends numbered frames until it is told to stop, and takes them back, checked. */
class Load {
  #sent = 0;
  #returned = 0;
  #stopping = false;
  readonly done: Promise<void>;
  readonly #random: Prng;
  readonly #link: Link;

  constructor(link: Link, seed: number) {
    this.#link = link;
    this.#random = new Prng(seed);
    this.done = new Promise((resolve, reject) => {
      link.onFrame(({ payload }) => {
        const number = payload.readUInt32BE(0);
        if (number !== this.#returned) {
          reject(new Error(`Frame ${number} came back instead of ${this.#returned}`));
        }
        this.#returned += 1;
        if (this.#stopping && this.#returned === this.#sent) resolve();
      });
      link.onClose(({ kind, error }) => reject(new Error(`The link is over: ${kind} ${error}`)));
      void this.#pump().catch(reject);
    });
  }

  get returned(): number {
    return this.#returned;
  }

  stop(): void {
    this.#stopping = true;
  }

  async #pump(): Promise<void> {
    while (!this.#stopping) {
      for (let burst = this.#random.nextInt(1, 20); burst > 0; burst -= 1) this.#send();
      await this.#link.drained();
      // Not further ahead of what came back: the test is to end soon after it is stopped.
      while (this.#sent - this.#returned > 2000) await turnOfTheLoop();
      await turnOfTheLoop();
    }
    // What ends the load: it comes back after all the others.
    this.#send();
  }

  #send(): void {
    const length = this.#random.chance(0.03)
      ? this.#random.nextInt(4, 200_000)
      : this.#random.nextInt(4, 2000);
    const payload = Buffer.alloc(length, this.#sent & 0xff);
    payload.writeUInt32BE(this.#sent, 0);
    this.#sent += 1;
    this.#link.send(0x100 + (this.#sent % 1000), [payload]);
  }
}

function turnOfTheLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turnOfTheLoop();
}

const pki = new TestPki();
test.after.always(() => pki.remove());

function secured(): LinkSecurity {
  const { certificate, key } = pki.issue();
  return { kind: 'tls', ca: pki.ca.certificate, certificate, key, peerNames: ['localhost'] };
}

for (const how of ['plain', 'tls'] as const) {
  test(`each link of a session knows its round trip, ${how}`, async (t) => {
    const security = how === 'tls' ? secured() : PLAIN;
    const { near, far } = await sessionThroughProxy(t, { security });
    for (const { roundTripUs } of [near.links.control, far.links.network]) {
      t.true(roundTripUs > 0 && roundTripUs < 60_000_000, String(roundTripUs));
    }
  });
}

for (const [seed, how] of [
  [1, 'plain'],
  [2, 'plain'],
  [3, 'tls'],
  [4, 'tls'],
] as const) {
  test(`50 cuts under load on all channels, threads included: all arrives once, ${how}, seed ${seed}`, async (t) => {
    t.timeout(120_000);
    const random = new Prng(seed);
    const security = how === 'tls' ? secured() : PLAIN;
    const { proxy, near, far } = await sessionThroughProxy(t, { security });
    const workers = [await intoWorker(t, far, 'disk'), await intoWorker(t, near, 'network')];
    echo(far.links.control);
    echo(far.links.ram);
    const loads = [
      new Load(near.links.control, seed),
      new Load(near.links.ram, seed + 1),
      new Load(near.links.disk, seed + 2),
      new Load(far.links.network, seed + 3),
    ];
    let over = false;
    for (const session of [near, far]) {
      session.onClose((reason) => t.log(reason, session === near ? 'near' : 'far'));
    }
    for (const load of loads)
      load.done.catch(() => {
        over = true;
      });
    for (let cut = 0; cut < 50 && !over; cut += 1) {
      const marks = loads.map(({ returned }) => returned);
      const how = random.pick(['reset', 'end', 'near'] as const);
      const all = random.chance(0.2);
      const before = proxy.accepted;
      const severed = all ? proxy.open : 1;
      proxy.sever(how, all ? undefined : random.nextInt(0, 3));
      await until(() => over || proxy.accepted >= before + severed);
      // Also in the middle of the handshakes of the last one.
      if (random.chance(0.7)) {
        await until(() => over || loads.every(({ returned }, i) => returned > (marks[i] ?? 0) + 5));
      }
    }
    for (const load of loads) load.stop();
    await Promise.all(loads.map(({ done }) => done));
    for (const { disorders } of workers) t.deepEqual(disorders, []);
    t.is(near.closeReason, undefined);
    t.is(far.closeReason, undefined);
    t.log(`${proxy.accepted} connections, ${loads.map(({ returned }) => returned)} frames`);
  });
}

test('a connection that only one side knows to be dead is replaced', async (t) => {
  const { proxy, near, far } = await sessionThroughProxy(t);
  for (const how of ['near', 'far'] as const) {
    const back = resumed(how === 'near' ? near : far);
    proxy.sever(how, 0);
    if (how === 'far') {
      // Nobody has told the connecting side; the silence ends when it is asked to look.
      for (const channel of CHANNELS) near.links[channel].send(0x100, []);
      near.renew();
    }
    await back;
    for (const channel of CHANNELS) far.links[channel].send(0x101, [Buffer.from(how)]);
    for (const channel of CHANNELS) {
      const [frame] = await takeFrames(near.links[channel], 1);
      t.is(frame?.payload.toString(), how);
    }
  }
  for (const channel of CHANNELS) {
    t.is((await takeFrames(far.links[channel], 1)).length, 1);
  }
});

test('while nobody gets through what is sent is kept, and its order', async (t) => {
  const { proxy, near, far } = await sessionThroughProxy(t);
  proxy.mode = 'dropping';
  const told = interrupted(far);
  proxy.sever('reset');
  t.is(await told, 'reset');
  await until(() => near.interrupted);
  for (let n = 0; n < 100; n += 1) near.links.control.send(0x100 + n, [Buffer.alloc(100, n)]);
  t.true(near.links.control.queuedBytes > 100 * 100);
  const flushed = near.links.control.flushed();
  await until(() => proxy.accepted > 12);
  t.true(near.interrupted);
  proxy.mode = 'open';
  const frames = await takeFrames(far.links.control, 100);
  t.deepEqual(
    frames.map(({ type }) => type),
    [...Array(100).keys()].map((n) => 0x100 + n),
  );
  await flushed;
  t.is(near.links.control.queuedBytes, 0);
  await until(() => near.links.control.heldBytes === 0);
});

test('an attempt that gets no answer is followed by another', async (t) => {
  const { proxy, near } = await sessionThroughProxy(t);
  proxy.mode = 'silent';
  const back = resumed(near);
  proxy.sever('end', 0);
  await until(() => proxy.accepted > 4);
  proxy.mode = 'open';
  await back;
  t.is(near.closeReason, undefined);
});

test('a session that is not resumed in time ends with timeout, on both sides', async (t) => {
  const { proxy, near, far } = await sessionThroughProxy(t, { nearMs: 300, farMs: 300 });
  proxy.mode = 'dropping';
  const over = [sessionClosed(near), sessionClosed(far)];
  proxy.sever('reset');
  for (const reason of await Promise.all(over)) {
    t.is(reason.kind, 'timeout');
    t.regex(reason.error?.message ?? '', /not resumed within 300 ms \(reset/);
  }
});

test('where nobody listens any more the session ends at once, for what interrupted it', async (t) => {
  const { proxy, near } = await sessionThroughProxy(t);
  proxy.refuse();
  const over = sessionClosed(near);
  proxy.sever('reset', 0);
  t.is((await over).kind, 'reset');
});

test('where the session is over it is not resumed, and the old reason stands', async (t) => {
  const { proxy, near, far } = await sessionThroughProxy(t);
  // So that it can't say so.
  proxy.sever('silent');
  far.destroy();
  const over = sessionClosed(near);
  near.renew();
  t.is((await over).kind, 'timeout');
});

test('a graceful end and a destroyed session are final', async (t) => {
  for (const how of ['close', 'destroy'] as const) {
    const { proxy, near, far } = await sessionThroughProxy(t);
    let told = 0;
    near.onInterruption({
      onInterrupted: () => {
        told += 1;
      },
      onResumed() {},
    });
    const over = sessionClosed(near);
    far[how]();
    t.is((await over).kind, 'ended');
    t.is(told, 0);
    t.is(proxy.accepted, CHANNELS.length);
  }
});

test('a listener that does not resume refuses, and the session ends as it broke', async (t) => {
  const listening = await startListener(t);
  const proxy = await SeveringProxy.start(listening.port);
  t.teardown(() => proxy.stop());
  const next = listening.nextSession();
  const near = await connectSession({
    ...{ host: '127.0.0.1', port: proxy.port, timeoutMs: 20_000, log: listening.log },
    resumeWithinMs: WITHIN_MS,
  });
  t.teardown(() => near.destroy());
  const far = await next;
  const over = [sessionClosed(near), sessionClosed(far)];
  proxy.sever('reset', 0);
  const [ofNear, ofFar] = await Promise.all(over);
  // The listening side may have said so on the other links before it was asked.
  t.true(['reset', 'ended'].includes(ofNear?.kind ?? ''));
  t.is(ofFar?.kind, 'reset');
});

test('a sender that ignores back-pressure while nobody gets through ends the session', async (t) => {
  const { proxy, near } = await sessionThroughProxy(t);
  proxy.mode = 'dropping';
  proxy.sever('reset', 0);
  await until(() => near.interrupted);
  const over = sessionClosed(near);
  let sent = 0;
  for (; near.links.ram.closeReason === undefined && sent < 100; sent += 1) {
    near.links.ram.send(0x100, [Buffer.alloc(1 << 20)]);
  }
  t.true(sent > 60 && sent < 70);
  t.like(await over, { kind: 'overflow', channel: 'ram' });
});
