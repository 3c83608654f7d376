import type { Socket } from 'node:net';
import test from 'ava';
import { type Attach, encodeAttach, FRAME_TYPES } from '../../../src/transport/attach-wire.js';
import {
  CHANNELS,
  type Channel,
  encodeFrame,
  type Frame,
  FrameDecoder,
  PeerListener,
  PROTOCOL_VERSIONS,
  probePeer,
} from '../../../src/transport/index.js';
import { PENDING_CONNECTIONS_MAX } from '../../../src/transport/limits.js';
import {
  INSTANCE,
  LogCollector,
  rawConnection,
  sessionClosed,
  startListener,
  startSession,
  takeFrames,
} from './support.js';

const ID = Buffer.alloc(16, 0x5a);

function attachFrame(channel: Channel, change: Partial<Attach> = {}): Buffer {
  const attach: Attach = {
    sessionId: ID,
    channel,
    purpose: 'session',
    versions: PROTOCOL_VERSIONS,
    ...change,
  };
  return Buffer.concat(encodeFrame(FRAME_TYPES.attach, [encodeAttach(attach)]));
}

/** The first frame that comes back, or undefined if the connection ends before. */
function firstFrame(socket: Socket): Promise<Frame | undefined> {
  const decoder = new FrameDecoder({ maxPayloadBytes: 1000 });
  return new Promise((resolve) => {
    socket.on('data', (chunk: Buffer) => {
      const [frame] = decoder.write(chunk);
      if (frame !== undefined) resolve(frame);
    });
    socket.on('close', () => resolve(undefined));
  });
}

function closed(socket: Socket): Promise<unknown> {
  socket.resume();
  if (socket.closed) return Promise.resolve();
  return new Promise((resolve) => socket.once('close', resolve));
}

test('five connections in any order, byte by byte, make one session', async (t) => {
  const listening = await startListener(t);
  const next = listening.nextSession();
  const answers: Promise<Frame | undefined>[] = [];
  for (const channel of ['network', 'faults', 'control', 'disk', 'ram'] as const) {
    const socket = await rawConnection(t, listening.port);
    answers.push(firstFrame(socket));
    socket.setNoDelay(true);
    for (const byte of attachFrame(channel)) socket.write(Buffer.of(byte));
  }
  const session = await next;
  t.is(session.id, ID.toString('hex'));
  for (const answer of await Promise.all(answers)) {
    t.like(answer, { type: FRAME_TYPES.attachOk, payload: Buffer.from([0, 4]) });
  }
  t.deepEqual(listening.log.lines, []);
});

test('the owner decides about a second session and the first does not notice', async (t) => {
  let there = false;
  const listening = await startListener(t, {
    accept(info) {
      t.is(info.remoteAddress, '127.0.0.1');
      if (there) return { ok: false, reason: 'A session is there' };
      there = true;
      return { ok: true };
    },
  });
  const { near, far } = await startSession(t, listening);
  await t.throwsAsync(startSession(t, listening), { code: 'COLO_E_LINK_REJECTED' });
  t.is(listening.log.lines.length, 1);
  t.is(listening.log.lines[0]?.fields['reason'], 'A session is there');
  near.links.ram.send(0x100, []);
  t.is((await takeFrames(far.links.ram, 1)).length, 1);
});

test('an incomplete session is dropped at its deadline with one log line', async (t) => {
  const listening = await startListener(t, { attachDeadlineMs: 1500 });
  const sockets: Socket[] = [];
  for (const channel of ['control', 'ram', 'disk'] as const) {
    const socket = await rawConnection(t, listening.port);
    socket.write(attachFrame(channel));
    sockets.push(socket);
  }
  await Promise.all(sockets.map(closed));
  t.is(listening.log.lines.length, 1);
  t.is(listening.log.lines[0]?.message, 'Incomplete session dropped');
  t.is(listening.sessions.length, 0);
});

test('an incomplete session goes as soon as one of its connections does', async (t) => {
  const listening = await startListener(t);
  const control = await rawConnection(t, listening.port);
  const ram = await rawConnection(t, listening.port);
  control.write(attachFrame('control'));
  ram.end(attachFrame('ram'));
  await Promise.all([closed(control), closed(ram)]);
  // Either the listener knew already that the two belong together, or it drops them one by one.
  t.true(listening.log.lines.length >= 1 && listening.log.lines.length <= 2);
});

test('a connection that sends its attach too slowly is dropped at the deadline', async (t) => {
  const listening = await startListener(t, { attachDeadlineMs: 1500 });
  const socket = await rawConnection(t, listening.port);
  socket.setNoDelay(true);
  const bytes = attachFrame('control');
  let sent = 0;
  const timer = setInterval(() => {
    if (sent < bytes.length - 1) socket.write(bytes.subarray(sent, sent + 1));
    sent += 1;
  }, 20);
  t.teardown(() => clearInterval(timer));
  await closed(socket);
  t.is(listening.log.lines.length, 1);
  t.is(listening.log.lines[0]?.fields['reason'], 'Not attached within 1500 ms');
});

for (const [name, bytes, pattern] of [
  ['a frame that is no attach', Buffer.concat(encodeFrame(0x100, [])), /instead of an attach/],
  [
    'two attaches on one connection',
    Buffer.concat([attachFrame('ram'), attachFrame('disk')]),
    /second attach/,
  ],
  ['an attach with rubbish inside', Buffer.concat(encodeFrame(1, [Buffer.alloc(22)])), /channel 0/],
  ['an attach that is too long', Buffer.concat(encodeFrame(1, [Buffer.alloc(23, 1)])), /follow/],
  ['a frame larger than any attach', Buffer.concat(encodeFrame(1, [Buffer.alloc(2000)])), /limit/],
  ['text', Buffer.from('SSH-2.0-OpenSSH_9.2p1 Debian\r\n'), /instead of "COLO"/],
] as const) {
  test(`${name} drops the connection with one log line`, async (t) => {
    const listening = await startListener(t);
    const socket = await rawConnection(t, listening.port);
    socket.write(bytes);
    await closed(socket);
    t.is(listening.log.lines.length, 1);
    t.regex(String(listening.log.lines[0]?.fields['reason']), pattern);
  });
}

test('a channel attached twice drops the second connection and spares the session', async (t) => {
  const listening = await startListener(t);
  const next = listening.nextSession();
  const first = await rawConnection(t, listening.port);
  const second = await rawConnection(t, listening.port);
  first.write(attachFrame('control'));
  second.write(attachFrame('control'));
  // Which of the two is read first is the kernel's choice; one goes, one stays.
  await Promise.race([closed(first), closed(second)]);
  t.is(listening.log.lines.length, 1);
  t.regex(String(listening.log.lines[0]?.fields['reason']), /control is attached twice/);
  for (const channel of CHANNELS.slice(1)) {
    (await rawConnection(t, listening.port)).write(attachFrame(channel));
  }
  t.is((await next).id, ID.toString('hex'));
});

test('a peer without a common version is refused with both ranges', async (t) => {
  const listening = await startListener(t);
  const socket = await rawConnection(t, listening.port);
  const answer = firstFrame(socket);
  socket.write(attachFrame('control', { versions: { min: 5, max: 7 } }));
  const frame = await answer;
  t.is(frame?.type, FRAME_TYPES.attachRefused);
  t.regex(frame?.payload.toString() ?? '', /versions 4 to 4, the peer 5 to 7/);
  t.is(listening.log.lines.length, 1);
});

test('silent connections do not lock out a peer: the oldest gives way', async (t) => {
  const listening = await startListener(t);
  const silent: Socket[] = [];
  for (let n = 0; n < PENDING_CONNECTIONS_MAX; n += 1) {
    silent.push(await rawConnection(t, listening.port));
  }
  await startSession(t, listening);
  await Promise.all(silent.slice(0, CHANNELS.length).map(closed));
  t.is(listening.log.lines.length, CHANNELS.length);
  t.false(silent[CHANNELS.length]?.closed);
});

test('close stops listening, drops what is pending without a word, and leaves sessions', async (t) => {
  const listening = await startListener(t);
  const { near, far } = await startSession(t, listening);
  const half = await rawConnection(t, listening.port);
  half.write(attachFrame('control'));
  // A probe that is answered proves that the connection before it has been accepted.
  t.is(await probePeer({ host: '127.0.0.1', port: listening.port, timeoutMs: 20_000 }), 'alive');
  listening.listener.close();
  await closed(half);
  t.is(await probePeer({ host: '127.0.0.1', port: listening.port, timeoutMs: 20_000 }), 'refused');
  near.links.control.send(0x100, []);
  t.is((await takeFrames(far.links.control, 1)).length, 1);
  t.deepEqual(listening.log.lines, []);
});

test('an address that can not be listened at is named', async (t) => {
  const { port } = await startListener(t);
  const other = new PeerListener({
    log: new LogCollector(),
    instance: INSTANCE,
    accept: () => ({ ok: true }),
    onSession() {},
  });
  await t.throwsAsync(other.listen({ host: '127.0.0.1', port }), {
    code: 'COLO_E_LINK_LISTEN',
    message: `Cannot listen at 127.0.0.1:${port}`,
  });
});

test('a session killed from the other side ends, is not logged here, and can come again', async (t) => {
  const listening = await startListener(t);
  const { near, far } = await startSession(t, listening);
  near.destroy();
  t.is((await sessionClosed(far)).kind, 'ended');
  const again = await startSession(t, listening);
  t.not(again.near.id, near.id);
  t.deepEqual(listening.log.lines, []);
});
