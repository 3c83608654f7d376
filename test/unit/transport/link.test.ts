import { once } from 'node:events';
import test from 'ava';
import { AssertionFailed, ProtocolError } from '../../../src/lib/index.js';
import { encodeFrame, Link, LinkError } from '../../../src/transport/index.js';
import { CHANNEL_LIMITS } from '../../../src/transport/limits.js';
import { linkAndSocket, linkClosed, takeFrames, twoLinks } from './support.js';

const SMALL = { maxPayloadBytes: 1 << 20, highWaterBytes: 1 << 20, queuedBytesMax: 8 << 20 };

test('frames arrive whole, in order, both ways, and are counted', async (t) => {
  const { near, far } = await twoLinks(t);
  near.send(0x100, [Buffer.from('to '), Buffer.from('far')]);
  near.send(0x101, [Buffer.alloc(300_000, 7)]);
  far.send(0x102, []);
  const [first, second] = await takeFrames(far, 2);
  const [third] = await takeFrames(near, 1);
  t.like(first, { type: 0x100, payload: Buffer.from('to far') });
  t.like(second, { type: 0x101, payload: Buffer.alloc(300_000, 7) });
  t.like(third, { type: 0x102, payload: Buffer.alloc(0) });
  const sent = { bytesSent: 16 + 6 + 16 + 300_000, framesSent: 2 };
  const back = { bytesReceived: 16, framesReceived: 1 };
  t.deepEqual(near.counters, { ...sent, ...back, framesDropped: 0 });
  t.is(far.counters.bytesReceived, sent.bytesSent);
  t.is(far.counters.framesReceived, 2);
});

test('a link knows how long a round trip takes while it has a connection', async (t) => {
  const { near, far } = await twoLinks(t);
  near.send(0x100, []);
  await takeFrames(far, 1);
  t.true(near.roundTripUs > 0 && near.roundTripUs < 10_000_000, String(near.roundTripUs));
  near.destroy();
  t.is(near.roundTripUs, 0);
});

test('frames that arrive before there is a handler wait for it, also past the FIN', async (t) => {
  const { near, far } = await linkAndSocket(t);
  let bytes = 0;
  for (let n = 0; n < 500; n += 1) {
    const frame = Buffer.concat(encodeFrame(0x100 + n, [Buffer.alloc(1000)]));
    bytes += frame.length;
    far.write(frame);
  }
  far.end();
  await once(far, 'finish');
  const closed = linkClosed(near);
  // Without a handler the link stops reading after what it got at once.
  t.true(near.counters.bytesReceived < bytes);
  const frames = await takeFrames(near, 500);
  t.deepEqual(
    frames.map((frame) => frame.type),
    frames.map((_, n) => 0x100 + n),
  );
  near.onFrame(() => {});
  t.deepEqual(await closed, { kind: 'ended' });
  t.is(near.counters.framesDropped, 0);
});

test('a handler that pauses gets no further frame before resume', async (t) => {
  const { near, far } = await twoLinks(t);
  for (let n = 0; n < 3; n += 1) near.send(n, [Buffer.alloc(10)]);
  const seen: number[] = [];
  await new Promise<void>((resolve) => {
    far.onFrame((frame) => {
      seen.push(frame.type);
      far.pause();
      resolve();
    });
  });
  // An answer that goes once around proves that nothing more was delivered meanwhile.
  far.send(9, []);
  await takeFrames(near, 1);
  t.deepEqual(seen, [0]);
  far.resume();
  const rest = await takeFrames(far, 2);
  t.deepEqual(
    rest.map((frame) => frame.type),
    [1, 2],
  );
});

test('a full queue makes the link unwritable until the peer has read', async (t) => {
  const { near, far } = await linkAndSocket(t, { ...SMALL, queuedBytesMax: 64 << 20 });
  far.pause();
  t.true(near.writable);
  await near.drained();
  while (near.writable) near.send(0x100, [Buffer.alloc(1 << 20)]);
  t.true(near.queuedBytes >= SMALL.highWaterBytes);
  const drained = near.drained();
  const flushed = near.flushed();
  far.resume();
  await drained;
  t.true(near.writable);
  await flushed;
  t.is(near.queuedBytes, 0);
});

test('who waits for a flush of a link that closes is told so', async (t) => {
  const { near, far } = await linkAndSocket(t, { ...SMALL, queuedBytesMax: 64 << 20 });
  far.pause();
  while (near.writable) near.send(0x100, [Buffer.alloc(1 << 20)]);
  const flushed = near.flushed();
  near.destroy();
  await t.throwsAsync(flushed, { code: 'COLO_E_LINK_CLOSED' });
});

test('a queue over its bound destroys the link with one log line', async (t) => {
  const { near, far, log } = await linkAndSocket(t, SMALL);
  far.pause();
  const waiting = t.throwsAsync(async () => {
    while (near.writable) near.send(0x100, [Buffer.alloc(1 << 20)]);
    await near.drained();
  });
  while (near.closeReason === undefined) {
    near.send(0x100, [Buffer.alloc(1 << 20)]);
    t.true(near.queuedBytes <= SMALL.queuedBytesMax);
  }
  t.is((await linkClosed(near)).kind, 'overflow');
  t.true((await waiting) instanceof LinkError);
  t.is(log.lines.length, 1);
  t.is(near.counters.framesDropped, 1);
});

test('a payload over the limit is a bug of the sender', async (t) => {
  const { near } = await linkAndSocket(t, SMALL);
  t.throws(() => near.send(1, [Buffer.alloc((1 << 20) + 1)]), { instanceOf: AssertionFailed });
});

test('malformed bytes destroy the link with one log line that names the peer', async (t) => {
  const { near, far, log } = await linkAndSocket(t);
  const address = `127.0.0.1:${(far.address() as { port: number }).port}`;
  far.write('GET / HTTP/1.1\r\nHost: example\r\n\r\n');
  far.write('GET / HTTP/1.1\r\n\r\n');
  near.onFrame(() => t.fail('no frame is in this'));
  const reason = await linkClosed(near);
  t.is(reason.kind, 'protocol');
  t.true(reason.error instanceof ProtocolError);
  t.is(log.lines.length, 1);
  t.is(log.lines[0]?.fields['remote'], address);
});

test('a ProtocolError thrown by the frame handler drops the link like malformed bytes', async (t) => {
  const { near, far, log } = await linkAndSocket(t);
  let calls = 0;
  near.onFrame((frame) => {
    calls += 1;
    throw new ProtocolError(`Type ${frame.type} makes no sense here`);
  });
  const frame = Buffer.concat(encodeFrame(0x155, []));
  far.write(Buffer.concat([frame, frame]));
  const reason = await linkClosed(near);
  t.is(reason.kind, 'protocol');
  t.regex(reason.error?.message ?? '', /Type 341/);
  t.is(calls, 1);
  t.is(log.lines.length, 1);
  t.is(near.counters.framesDropped, 1);
});

test('a FIN between frames is ended, a FIN inside of one is ended with the error', async (t) => {
  const clean = await linkAndSocket(t);
  clean.far.end();
  t.deepEqual(await linkClosed(clean.near), { kind: 'ended' });
  const cut = await linkAndSocket(t);
  cut.far.end(Buffer.concat(encodeFrame(1, [Buffer.alloc(10)])).subarray(0, 20));
  const reason = await linkClosed(cut.near);
  t.is(reason.kind, 'ended');
  t.regex(reason.error?.message ?? '', /ended after 4 of 10/);
});

test('a RST is reset', async (t) => {
  const { near, far } = await linkAndSocket(t);
  far.resetAndDestroy();
  const reason = await linkClosed(near);
  t.is(reason.kind, 'reset');
  t.is((reason.error as NodeJS.ErrnoException).code, 'ECONNRESET');
});

test('errors of the network are timeouts, other errors are ours', async (t) => {
  for (const [code, kind] of [
    ['ETIMEDOUT', 'timeout'],
    ['EHOSTUNREACH', 'timeout'],
    ['EPIPE', 'reset'],
    ['ENOBUFS', 'local'],
  ] as const) {
    const { near, nearSocket } = await linkAndSocket(t);
    nearSocket.destroy(Object.assign(new Error(code), { code }));
    const reason = await linkClosed(near);
    t.is(reason.kind, kind);
    t.is(reason.error?.message, code);
  }
});

test('close sends what is queued first', async (t) => {
  const { near, far } = await twoLinks(t);
  // More than the kernel takes at once, and little enough for a busy host within the deadline.
  for (let n = 0; n < 8; n += 1) near.send(n, [Buffer.alloc(1 << 20, n)]);
  near.close();
  near.send(99, []);
  const frames = await takeFrames(far, 8);
  far.onFrame(() => t.fail('a frame sent after close arrived'));
  t.is(frames.length, 8);
  t.deepEqual(await linkClosed(far), { kind: 'ended' });
  t.deepEqual(await linkClosed(near), { kind: 'local' });
  t.is(near.counters.framesDropped, 1);
});

test('close does not wait for ever for a peer that does not close', async (t) => {
  const { near, far } = await linkAndSocket(t);
  far.pause();
  near.send(1, [Buffer.alloc(4 << 20)]);
  near.send(1, [Buffer.alloc(4 << 20)]);
  near.close();
  t.deepEqual(await linkClosed(near), { kind: 'local' });
});

test('destroy is local, told once, and sends and waits after it fail softly', async (t) => {
  const { near } = await linkAndSocket(t);
  let told = 0;
  near.onClose(() => {
    told += 1;
  });
  near.destroy();
  t.is(told, 0);
  near.destroy();
  t.deepEqual(await linkClosed(near), { kind: 'local' });
  near.send(1, []);
  t.is(near.counters.framesDropped, 1);
  t.false(near.writable);
  await t.throwsAsync(near.drained(), { code: 'COLO_E_LINK_CLOSED' });
  t.is(told, 1);
});

test('many small frames sent at once arrive in order', async (t) => {
  const { near, far } = await twoLinks(t);
  for (let n = 0; n < 5000; n += 1) near.send(n, [Buffer.alloc(n % 1100, n)]);
  const frames = await takeFrames(far, 5000);
  t.true(frames.every((frame, n) => frame.type === n && frame.payload.length === n % 1100));
});

test('an exchange is not held up by delayed acknowledgements', async (t) => {
  const { near, far } = await twoLinks(t);
  far.onFrame((frame) => far.send(frame.type, [frame.payload]));
  const rounds: number[] = [];
  let sentAtMs = performance.now();
  await new Promise<void>((resolve) => {
    near.onFrame(() => {
      rounds.push(performance.now() - sentAtMs);
      if (rounds.length === 100) resolve();
      sentAtMs = performance.now();
      if (rounds.length < 100) near.send(1, [Buffer.alloc(600), Buffer.alloc(600)]);
    });
    near.send(1, [Buffer.alloc(600), Buffer.alloc(600)]);
  });
  // With Nagle every round would wait some 40 ms; a busy host delays some, not all.
  const [, , , , , , , , , tenth] = rounds.sort((a, b) => a - b);
  t.true((tenth ?? 0) < 20, `${tenth} ms`);
});

test('a link over a socket that never connects reports why', async (t) => {
  const { far } = await linkAndSocket(t);
  const net = await import('node:net');
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const link = new Link(net.connect(port, '127.0.0.1'), { log, limits: CHANNEL_LIMITS.control });
  const reason = await linkClosed(link);
  t.is(reason.kind, 'reset');
  t.is((reason.error as NodeJS.ErrnoException).code, 'ECONNREFUSED');
  far.destroy();
});
