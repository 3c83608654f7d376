import { once } from 'node:events';
import type net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { AssertionFailed, Prng, ProtocolError } from '../../../src/lib/index.js';
import {
  attachLink,
  CHANNEL_LIMITS,
  CHANNELS,
  type Channel,
  type DetachedLink,
  discardLink,
  encodeFrame,
  type Frame,
  type Link,
  LinkError,
  type LinkKeeper,
  type LinkReport,
  reportLink,
  Session,
  type SessionCloseReason,
  WorkerClient,
} from '../../../src/transport/index.js';
import type { LinkCalls, LinkNotices } from './link-worker.js';
import {
  LogCollector,
  linkAndSocket,
  linkClosed,
  sessionClosed,
  takeFrames,
  twoLinks,
} from './support.js';

const LIMITS = CHANNEL_LIMITS.network;

/** Writes down what it is asked for. */
class KeeperLog implements LinkKeeper {
  readonly asked: string[] = [];

  close(): void {
    this.asked.push('close');
  }

  destroy(): void {
    this.asked.push('destroy');
  }

  renew(): void {
    this.asked.push('renew');
  }

  reconnect(): void {
    this.asked.push('reconnect');
  }
}

/** As postMessage does it. */
function attach(t: ExecutionContext, detached: DetachedLink): Link {
  const link = attachLink(structuredClone(detached), { log: new LogCollector() });
  t.teardown(() => link.destroy());
  return link;
}

/** A frame that says its number and is filled up to `length` bytes with it. */
function numbered(number: number, length: number): Buffer {
  const payload = Buffer.alloc(Math.max(4, length), number & 0xff);
  payload.writeUInt32BE(number, 0);
  return payload;
}

function types(frames: readonly Frame[]): number[] {
  return frames.map(({ type }) => type);
}

test('a detached link goes on: frames nobody took, then those behind them; counters too', async (t) => {
  const { near, far } = await twoLinks(t);
  for (let n = 0; n < 10; n += 1) far.send(n, [Buffer.alloc(100, n)]);
  t.deepEqual(types(await takeFrames(near, 3)), [0, 1, 2]);
  near.send(0x200, []);
  const keeper = new KeeperLog();
  const detached = near.detach(keeper);
  t.is(detached.leftover.length, 7 * 116);
  t.like(detached.counters, { framesReceived: 3, bytesReceived: 3 * 116, framesSent: 1 });
  far.send(10, [Buffer.alloc(100, 10)]);
  const next = attach(t, detached);
  const frames = await takeFrames(next, 8);
  t.deepEqual(types(frames), [3, 4, 5, 6, 7, 8, 9, 10]);
  for (const { type, payload } of frames) t.deepEqual(payload, Buffer.alloc(100, type));
  next.send(0x201, []);
  t.deepEqual(types(await takeFrames(far, 2)), [0x200, 0x201]);
  t.deepEqual(next.counters, {
    framesReceived: 11,
    bytesReceived: 11 * 116,
    framesSent: 2,
    bytesSent: 32,
    framesDropped: 0,
  });
  near.reported(reportLink(next));
  t.deepEqual(near.counters, next.counters);
  t.is(near.remoteAddress, next.remoteAddress);
  t.deepEqual(keeper.asked, []);
});

test('a link that is cut anywhere in its stream loses no byte', async (t) => {
  const bytes = Buffer.concat(
    [0, 1, 40, 0, 300].flatMap((length, n) => encodeFrame(n, [Buffer.alloc(length, n)])),
  );
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    const { near, far } = await linkAndSocket(t, LIMITS);
    far.write(bytes.subarray(0, cut));
    const seen: Frame[] = [];
    // The link reads one piece and then stops for want of a handler, or knows all of it.
    while (cut > 0 && near.counters.bytesReceived === 0) await turnOfTheLoop();
    near.onFrame((frame) => seen.push(frame));
    await Promise.resolve();
    const next = attach(t, near.detach(new KeeperLog()));
    far.end(bytes.subarray(cut));
    const closed = linkClosed(next);
    next.onFrame((frame) => seen.push(frame));
    t.deepEqual(await closed, { kind: 'ended' });
    t.deepEqual(types(seen), [0, 1, 2, 3, 4]);
    t.true(Buffer.concat(seen.flatMap((f) => encodeFrame(f.type, [f.payload]))).equals(bytes));
    t.is(next.counters.bytesReceived, bytes.length);
  }
});

test('what Node has buffered of a paused socket goes along', async (t) => {
  const { near, far } = await linkAndSocket(t, LIMITS);
  const sent = 400;
  for (let n = 0; n < sent; n += 1) far.write(Buffer.concat(encodeFrame(n, [numbered(n, 1000)])));
  near.pause();
  await new Promise((resolve) => far.write(Buffer.alloc(0), resolve));
  // The event loop turns a few times, so that libuv reads what a paused stream will still take.
  for (let turn = 0; turn < 5; turn += 1) await turnOfTheLoop();
  const next = attach(t, near.detach(new KeeperLog()));
  const frames = await takeFrames(next, sent);
  t.deepEqual(
    types(frames),
    frames.map((_, n) => n),
  );
});

test('a frame handler may detach: the frames behind it go along', async (t) => {
  const { near, far } = await linkAndSocket(t, LIMITS);
  const seen: number[] = [];
  const detached = new Promise<DetachedLink>((resolve) => {
    near.onFrame(({ type }) => {
      seen.push(type);
      if (type === 2) resolve(near.detach(new KeeperLog()));
    });
  });
  far.write(Buffer.concat([0, 1, 2, 3, 4].flatMap((n) => encodeFrame(n, [Buffer.alloc(10)]))));
  const next = attach(t, await detached);
  t.deepEqual(types(await takeFrames(next, 2)), [3, 4]);
  t.deepEqual(seen, [0, 1, 2]);
  t.is(next.counters.framesReceived, 5);
});

test('a link whose peer has closed is detached with its last frames and its end', async (t) => {
  for (const half of [false, true]) {
    const { near, far } = await linkAndSocket(t, LIMITS);
    const bytes = Buffer.concat([0, 1].flatMap((n) => encodeFrame(n, [Buffer.alloc(10)])));
    far.end(half ? bytes.subarray(0, -1) : bytes);
    const closed = new Promise((resolve) => far.once('close', resolve));
    far.resume();
    // Without a handler the link keeps the frames; Node closes its socket by itself.
    await closed;
    const detached = near.detach(new KeeperLog());
    const next = attach(t, detached);
    const over = linkClosed(next);
    t.deepEqual(types(await takeFrames(next, half ? 1 : 2)), half ? [0] : [0, 1]);
    next.onFrame(() => {});
    const reason = await over;
    t.is(reason.kind, 'ended');
    t.is(reason.error instanceof ProtocolError, half);
  }
});

test('what stays behind carries no frames, and says so', async (t) => {
  const { near, far } = await twoLinks(t);
  const detached = near.detach(new KeeperLog());
  t.false(near.writable);
  t.is(near.queuedBytes, 0);
  await t.throwsAsync(near.drained(), { instanceOf: LinkError });
  await t.throwsAsync(near.flushed(), { instanceOf: LinkError });
  t.throws(() => near.send(0x100, []), { instanceOf: AssertionFailed });
  t.throws(() => near.onFrame(() => {}), { instanceOf: AssertionFailed });
  t.throws(() => near.pause(), { instanceOf: AssertionFailed });
  t.throws(() => near.resume(), { instanceOf: AssertionFailed });
  t.throws(() => near.detach(new KeeperLog()), { instanceOf: LinkError });
  t.throws(() => far.reported({ counters: far.counters }), { instanceOf: AssertionFailed });
  near.onFrame(undefined);
  near.destroy();
  near.send(0x100, []);
  t.is(near.counters.framesDropped, 1);
  discardLink(detached);
  far.onFrame(() => {});
  t.is((await linkClosed(far)).kind, 'ended');
});

test('a link with bytes queued, or closed, is not detached; flushed makes it fit', async (t) => {
  const { near, far } = await linkAndSocket(t, LIMITS);
  far.pause();
  while (near.queuedBytes === 0) near.send(0x100, [Buffer.alloc(1 << 20)]);
  t.throws(() => near.detach(new KeeperLog()), { instanceOf: AssertionFailed });
  far.resume();
  await near.flushed();
  const detached = near.detach(new KeeperLog());
  discardLink(detached);
  const other = await linkAndSocket(t, LIMITS);
  other.near.destroy();
  t.throws(() => other.near.detach(new KeeperLog()), { instanceOf: LinkError });
});

test('wishes are passed on once, a report of the end is the end', async (t) => {
  const first = await linkAndSocket(t, LIMITS);
  const keeper = new KeeperLog();
  discardLink(first.near.detach(keeper));
  first.near.close();
  first.near.close();
  t.deepEqual(keeper.asked, ['close']);
  t.is(first.near.closeReason, undefined);
  const { counters } = first.near;
  first.near.reported({ counters, closed: { kind: 'reset' } });
  // It was closing: what the peer did meanwhile is no news.
  t.deepEqual(await linkClosed(first.near), { kind: 'local' });
  first.near.destroy();
  t.deepEqual(keeper.asked, ['close']);

  const second = await linkAndSocket(t, LIMITS);
  const other = new KeeperLog();
  discardLink(second.near.detach(other));
  second.near.destroy();
  second.near.destroy();
  t.deepEqual(other.asked, ['destroy']);
  second.near.reported({ counters, closed: { kind: 'local' } });
  t.deepEqual(await linkClosed(second.near), { kind: 'local' });
});

interface Threaded {
  readonly client: WorkerClient<LinkCalls, LinkNotices>;
  readonly disorders: [number, number][];
  readonly reports: LinkReport[];
}

function startWorker(t: ExecutionContext, onOver?: (report: LinkReport) => void): Threaded {
  const disorders: [number, number][] = [];
  const reports: LinkReport[] = [];
  const client = new WorkerClient<LinkCalls, LinkNotices>(
    new URL('./link-worker.js', import.meta.url),
    {
      name: 'links',
      log: new LogCollector(),
      notices: {
        disorder: (expected, found) => disorders.push([expected, found]),
        over(report) {
          reports.push(report);
          onOver?.(report);
        },
        state: () => undefined,
      },
      onFailure: (error) => t.fail(error.message),
    },
  );
  t.teardown(() => client.terminate());
  return { client, disorders, reports };
}

/** Sends numbered frames of random sizes without a pause and takes them back, checked. */
class Echoed {
  next = 0;
  returned = 0;
  readonly #link: Link;
  readonly #random: Prng;
  readonly #count: number;
  readonly all: Promise<void>;

  constructor(link: Link, seed: number, count: number) {
    this.#link = link;
    this.#random = new Prng(seed);
    this.#count = count;
    this.all = new Promise((resolve, reject) => {
      link.onFrame(({ type, payload }) => {
        const number = payload.readUInt32BE(0);
        if (number !== this.returned || type !== number % 0xff00) {
          reject(new Error(`Frame ${number} came back instead of ${this.returned}`));
        }
        this.returned += 1;
        if (this.returned === this.#count) resolve();
      });
      link.onClose(({ kind }) => reject(new Error(`The peer noticed: ${kind}`)));
      void this.#pump().catch(reject);
    });
  }

  /** At least `number` frames have been sent. */
  async sent(number: number): Promise<void> {
    while (this.next < number) await turnOfTheLoop();
  }

  async #pump(): Promise<void> {
    while (this.next < this.#count) {
      for (
        let burst = this.#random.nextInt(1, 40);
        burst > 0 && this.next < this.#count;
        burst -= 1
      ) {
        const length = this.#random.chance(0.05)
          ? this.#random.nextInt(4, 200_000)
          : this.#random.nextInt(4, 2000);
        this.#link.send(this.next % 0xff00, [numbered(this.next, length)]);
        this.next += 1;
      }
      await this.#link.drained();
      if (this.#random.chance(0.5)) await turnOfTheLoop();
    }
  }
}

for (let seed = 1; seed <= 8; seed += 1) {
  test(`under traffic both ways nothing is lost, doubled or reordered, seed ${seed}`, async (t) => {
    const count = 6000;
    const random = new Prng(seed);
    const { near, far } = await twoLinks(t);
    const { client, disorders } = startWorker(t);
    const echoed = new Echoed(far, seed, count);
    let link = near;
    let next = 0;
    // To and fro: each time at a random frame of the stream, wherever that is in its bytes.
    for (let move = 1; move <= 6; move += 1) {
      let expected = next;
      link.onFrame(({ type, payload }) => {
        t.is(payload.readUInt32BE(0), expected);
        expected += 1;
        link.send(type, [payload]);
      });
      await echoed.sent(random.nextInt(((move - 1) * count) / 7, (move * count) / 7));
      // As Session.detachLink does it; what arrives meanwhile is answered here.
      while (link.queuedBytes > 0) await link.flushed();
      await client.call('attach', link.detach(new KeeperLog()), expected);
      await echoed.sent(random.nextInt(((move - 1) * count) / 7, (move * count) / 7));
      const back = await client.call('detach');
      next = back.next;
      link = attach(t, back.detached);
    }
    link.onFrame(({ type, payload }) => link.send(type, [payload]));
    await echoed.all;
    t.deepEqual(disorders, []);
    t.is(link.counters.framesReceived, count);
    t.is(link.counters.framesSent, count);
    t.is(link.counters.bytesReceived, far.counters.bytesSent);
    t.is(link.counters.bytesSent, far.counters.bytesReceived);
    t.is(link.counters.framesDropped, 0);
  });
}

interface SplitSession {
  readonly session: Session;
  /** The peer's bare ends. */
  readonly sockets: Readonly<Record<Channel, net.Socket>>;
  readonly threaded: Threaded;
}

/** A session whose network link is in a worker. */
async function splitSession(t: ExecutionContext): Promise<SplitSession> {
  const links = {} as Record<Channel, Link>;
  const sockets = {} as Record<Channel, net.Socket>;
  for (const channel of CHANNELS) {
    const { near, far } = await linkAndSocket(t, CHANNEL_LIMITS[channel]);
    links[channel] = near;
    sockets[channel] = far;
    far.resume();
  }
  const told = { id: '00', remoteAddress: '127.0.0.1', protocolVersion: 1 };
  const info = { ...told, peerCertificate: undefined };
  const session = new Session(info, links);
  const threaded = startWorker(t, (report) => session.links.network.reported(report));
  const { client } = threaded;
  const detached = await session.detachLink('network', {
    close: () => client.notify('close'),
    destroy: () => client.notify('destroy'),
    renew: () => client.notify('renew'),
    reconnect: (connection) => client.notify('reconnect', connection),
  });
  await client.call('attach', detached, 0);
  return { session, sockets, threaded };
}

test('malformed bytes in the worker end the session, with channel and reason', async (t) => {
  const { session, sockets } = await splitSession(t);
  const over = sessionClosed(session);
  const ends = CHANNELS.map((channel) => once(sockets[channel], 'close'));
  sockets.network.write('this is no frame');
  const reason: SessionCloseReason = await over;
  t.like(reason, { kind: 'protocol', channel: 'network' });
  t.true(reason.error instanceof ProtocolError);
  t.regex(reason.error?.message ?? '', /instead of "COLO"/);
  t.is(session.closeReason, reason);
  await Promise.all(ends);
});

test("the peer's end of the network link ends the session", async (t) => {
  for (const [end, kind] of [
    ['destroy', 'ended'],
    ['resetAndDestroy', 'reset'],
  ] as const) {
    const { session, sockets } = await splitSession(t);
    const over = sessionClosed(session);
    sockets.network[end]();
    t.like(await over, { kind, channel: 'network' });
  }
});

test('a session that is destroyed, or loses another link, destroys the one in the worker', async (t) => {
  for (const how of ['destroy', 'lost'] as const) {
    const { session, sockets, threaded } = await splitSession(t);
    const ends = CHANNELS.map((channel) => once(sockets[channel], 'close'));
    const over = sessionClosed(session);
    if (how === 'destroy') session.destroy();
    else sockets.ram.destroy();
    await Promise.all(ends);
    t.like(await over, how === 'destroy' ? { kind: 'local' } : { kind: 'ended', channel: 'ram' });
    const report = await threaded.client.call('report');
    t.is(report.closed?.kind, 'local');
  }
});

test('a session that is closed sends what the worker has queued, and waits for it', async (t) => {
  const { session, sockets, threaded } = await splitSession(t);
  const payload = Buffer.alloc(1 << 20, 7);
  const chunks: Buffer[] = [];
  sockets.network.on('data', (chunk: Buffer) => chunks.push(chunk));
  sockets.network.pause();
  for (let n = 0; n < 6; n += 1) await threaded.client.call('send', 0x100, payload);
  const over = sessionClosed(session);
  session.close();
  t.is(session.closeReason, undefined);
  sockets.network.resume();
  t.deepEqual(await over, { kind: 'local' });
  t.is(Buffer.concat(chunks).length, 6 * (payload.length + 16));
  t.is(session.links.network.counters.bytesSent, 6 * (payload.length + 16));
  t.is(threaded.reports.length, 1);
});

/** One turn of the event loop: whatever was ready to be read before it has been. */
function turnOfTheLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
