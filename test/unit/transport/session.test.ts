import { once } from 'node:events';
import net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import { decodeAttach, encodeAttachOk, FRAME_TYPES } from '../../../src/transport/attach-wire.js';
import {
  CHANNELS,
  connectSession,
  encodeFrame,
  type Frame,
  FrameDecoder,
  INSTANCE_BYTES,
  PROTOCOL_VERSIONS,
  probePeer,
} from '../../../src/transport/index.js';
import {
  INSTANCE,
  LogCollector,
  linkClosed,
  sessionClosed,
  startListener,
  startSession,
  takeFrames,
} from './support.js';

/** A server that is not ours: `onConnection` speaks for it. */
async function foreignServer(
  t: ExecutionContext,
  onConnection: (socket: net.Socket) => void,
): Promise<number> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onConnection(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as net.AddressInfo).port;
}

/** A loopback port where nothing listens. */
async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function connectTo(port: number, timeoutMs = 20_000, signal?: AbortSignal) {
  const log = new LogCollector();
  const options = { host: '127.0.0.1', port, timeoutMs, log };
  return connectSession(signal === undefined ? options : { ...options, signal });
}

/** Calls `answer` with the first frame of a socket. */
function onFirstFrame(socket: net.Socket, answer: (frame: Frame) => void): void {
  const decoder = new FrameDecoder({ maxPayloadBytes: 1000 });
  socket.on('data', (chunk: Buffer) => {
    for (const frame of decoder.write(chunk)) answer(frame);
  });
}

test('a session has five links of their own that carry frames both ways', async (t) => {
  const { near, far } = await startSession(t, await startListener(t));
  t.is(near.id, far.id);
  t.regex(near.id, /^[0-9a-f]{32}$/);
  t.is(near.remoteAddress, '127.0.0.1');
  t.is(far.remoteAddress, '127.0.0.1');
  t.is(near.protocolVersion, PROTOCOL_VERSIONS.max);
  for (const [n, channel] of CHANNELS.entries()) {
    near.links[channel].send(0x100 + n, [Buffer.from(channel)]);
    far.links[channel].send(0x200 + n, [Buffer.from(channel)]);
    const [there] = await takeFrames(far.links[channel], 1);
    const [back] = await takeFrames(near.links[channel], 1);
    t.like(there, { type: 0x100 + n, payload: Buffer.from(channel) });
    t.like(back, { type: 0x200 + n, payload: Buffer.from(channel) });
  }
});

test('after the attach a channel takes payloads up to its own limit', async (t) => {
  const { near, far } = await startSession(t, await startListener(t));
  near.links.ram.send(0x100, [Buffer.alloc(4 << 20, 1)]);
  const [frame] = await takeFrames(far.links.ram, 1);
  t.is(frame?.payload.length, 4 << 20);
});

test('frames that the listener sends at once reach a client that attaches handlers later', async (t) => {
  const listening = await startListener(t, {
    onSession(session) {
      t.teardown(() => session.destroy());
      for (const channel of CHANNELS) session.links[channel].send(0x100, [Buffer.from(channel)]);
    },
  });
  const session = await connectTo(listening.port);
  t.teardown(() => session.destroy());
  for (const channel of CHANNELS) {
    const [frame] = await takeFrames(session.links[channel], 1);
    t.is(frame?.payload.toString(), channel);
  }
});

test('a session that loses one link loses all and tells the channel and the reason once', async (t) => {
  const { near, far } = await startSession(t, await startListener(t));
  let told = 0;
  far.onClose(() => {
    told += 1;
  });
  const links = CHANNELS.map((channel) => linkClosed(far.links[channel]));
  near.links.disk.destroy();
  t.deepEqual(await sessionClosed(far), { kind: 'ended', channel: 'disk' });
  t.deepEqual(await sessionClosed(near), { kind: 'local', channel: 'disk' });
  await Promise.all(links);
  t.is(told, 1);
  t.is(far.closeReason?.kind, 'ended');
});

test('malformed bytes on one channel end the session with protocol and one log line', async (t) => {
  const listening = await startListener(t);
  const { near, far } = await startSession(t, listening);
  far.links.network.onFrame(() => {
    throw new ProtocolError('Not a guest frame');
  });
  near.links.network.send(0x100, []);
  const reason = await sessionClosed(far);
  t.is(reason.kind, 'protocol');
  t.is(reason.channel, 'network');
  t.is(listening.log.lines.length, 1);
});

test('close of a session delivers what was queued on every link and is local', async (t) => {
  const { near, far } = await startSession(t, await startListener(t));
  const received = CHANNELS.map((channel) => takeFrames(far.links[channel], 1));
  for (const channel of CHANNELS) near.links[channel].send(0x100, [Buffer.alloc(1000)]);
  await Promise.all(received);
  near.close();
  t.deepEqual(await sessionClosed(near), { kind: 'local' });
  t.is((await sessionClosed(far)).kind, 'ended');
});

test('destroy of a session is local; a late handler hears of it too', async (t) => {
  const { near } = await startSession(t, await startListener(t));
  near.destroy();
  t.deepEqual(await sessionClosed(near), { kind: 'local' });
  t.deepEqual(await sessionClosed(near), { kind: 'local' });
  near.close();
  t.deepEqual(near.closeReason, { kind: 'local' });
});

test('a session to a port where nothing listens is refused', async (t) => {
  const error = await t.throwsAsync(connectTo(await freePort()));
  t.is((error as { code?: string }).code, 'COLO_E_LINK_REFUSED');
  t.regex(error?.message ?? '', /^Nothing listens at 127\.0\.0\.1:\d+$/);
});

test('a session that the listener rejects carries its reason', async (t) => {
  const { port } = await startListener(t, {
    accept: () => ({ ok: false, reason: 'A session is there' }),
  });
  const error = await t.throwsAsync(connectTo(port), { code: 'COLO_E_LINK_REJECTED' });
  t.regex(error?.message ?? '', /refused: A session is there$/);
});

test('a session with a peer that does not answer ends at the time-out', async (t) => {
  const sockets: Promise<unknown>[] = [];
  const port = await foreignServer(t, (socket) => {
    socket.resume();
    sockets.push(once(socket, 'close'));
  });
  await t.throwsAsync(connectTo(port, 50), { code: 'COLO_E_LINK_TIMEOUT' });
  // Nothing stays open.
  await Promise.all(sockets);
});

test('an abort signal ends an attempt, also when it came before', async (t) => {
  const controller = new AbortController();
  const port = await foreignServer(t, () => controller.abort());
  await t.throwsAsync(connectTo(port, 20_000, controller.signal), {
    code: 'COLO_E_LINK_ABORTED',
  });
  await t.throwsAsync(connectTo(port, 20_000, AbortSignal.abort()), {
    code: 'COLO_E_LINK_ABORTED',
  });
});

test('a session with something that is not Colo, or closes, fails and says so', async (t) => {
  const http = await foreignServer(t, (socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'));
  await t.throwsAsync(connectTo(http), { code: 'COLO_E_PROTOCOL' });
  const closes = await foreignServer(t, (socket) => socket.end());
  await t.throwsAsync(connectTo(closes), { code: 'COLO_E_LINK_LOST' });
});

test('a peer of another frame version, or that chooses a version not offered, is named', async (t) => {
  const newer = await foreignServer(t, (socket) => {
    const [header] = encodeFrame(FRAME_TYPES.attachOk, []);
    header?.writeUInt8(2, 4);
    socket.write(header ?? '');
  });
  await t.throwsAsync(connectTo(newer), {
    message: 'The peer speaks frame version 2, this side version 1',
  });
  const odd = await foreignServer(t, (socket) => {
    socket.write(Buffer.concat(encodeFrame(FRAME_TYPES.attachOk, [encodeAttachOk(9)])));
  });
  await t.throwsAsync(connectTo(odd), { message: 'The peer chose version 9, offered were 4 to 4' });
});

test('an answer to an attach that is none is a protocol error', async (t) => {
  const port = await foreignServer(t, (socket) => {
    socket.write(Buffer.concat(encodeFrame(FRAME_TYPES.probeOk, [])));
  });
  await t.throwsAsync(connectTo(port), { code: 'COLO_E_PROTOCOL', message: /frame of type 4/ });
});

test('the connecting side attaches each channel once, with one session id', async (t) => {
  const seen = new Map<string, string>();
  const port = await foreignServer(t, (socket) => {
    onFirstFrame(socket, (frame) => {
      const attach = decodeAttach(frame.payload);
      seen.set(attach.channel, attach.sessionId.toString('hex'));
      t.is(attach.purpose, 'session');
      socket.write(
        Buffer.concat(encodeFrame(FRAME_TYPES.attachOk, [encodeAttachOk(PROTOCOL_VERSIONS.max)])),
      );
    });
  });
  const session = await connectTo(port);
  t.teardown(() => session.destroy());
  t.deepEqual([...seen.keys()].sort(), [...CHANNELS].sort());
  t.deepEqual(new Set(seen.values()), new Set([session.id]));
});

test('a probe tells a listener from nothing, from silence and from something else', async (t) => {
  let probed = '';
  const listening = await startListener(t, {
    onProbe(remoteAddress) {
      probed = remoteAddress;
    },
  });
  const probe = (port: number, timeoutMs = 20_000) =>
    probePeer({ host: '127.0.0.1', port, timeoutMs });
  t.is(await probe(listening.port), 'alive');
  const ask = { host: '127.0.0.1', port: listening.port, timeoutMs: 20_000 };
  t.is(await probePeer({ ...ask, instance: INSTANCE }), 'alive');
  t.is(await probePeer({ ...ask, instance: Buffer.alloc(INSTANCE_BYTES) }), 'replaced');
  for (const answer of ['serving', 'holding', 'leading', 'shared', 'following'] as const) {
    const other = await startListener(t, { probeAnswer: () => answer });
    t.is(await probe(other.port), answer);
  }
  t.is(probed, '127.0.0.1');
  t.is(await probe(await freePort()), 'refused');
  t.is(await probe(await foreignServer(t, () => {}), 50), 'silent');
  const closes = await foreignServer(t, (socket) => socket.end());
  t.is(await probe(closes, 50), 'silent');
  const http = await foreignServer(t, (socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'));
  t.is(await probe(http), 'silent');
  const odd = await foreignServer(t, (socket) => {
    socket.write(Buffer.concat(encodeFrame(FRAME_TYPES.attachOk, [])));
  });
  t.is(await probe(odd), 'silent');
  t.deepEqual(listening.log.lines, []);
});

test('a probe of a process that is just going asks again until it is gone', async (t) => {
  const server = net.createServer((socket) => {
    server.close();
    socket.resetAndDestroy();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  t.is(await probePeer({ host: '127.0.0.1', port, timeoutMs: 20_000 }), 'refused');
});

test('a probe from an address that this host does not have is unreachable', async (t) => {
  const result = await probePeer({
    host: '127.0.0.1',
    port: 9,
    localAddress: '203.0.113.1',
    timeoutMs: 20_000,
  });
  t.is(result, 'unreachable');
});

test('a probe does not disturb a session that is there', async (t) => {
  const listening = await startListener(t);
  const { near, far } = await startSession(t, listening);
  t.is(await probePeer({ host: '127.0.0.1', port: listening.port, timeoutMs: 20_000 }), 'alive');
  near.links.control.send(0x100, []);
  t.is((await takeFrames(far.links.control, 1)).length, 1);
});
