/**
 * A listener under fire: strangers send rubbish of every kind, at once, while a session runs. Each
 * of them is dropped with exactly one log line, and the session notices nothing.
 */
import { once } from 'node:events';
import net from 'node:net';
import test from 'ava';
import fc from 'fast-check';
import { encodeAttach, FRAME_TYPES } from '../../../src/transport/attach-wire.js';
import { CHANNELS, encodeFrame, PROTOCOL_VERSIONS } from '../../../src/transport/index.js';
import { startListener, startSession } from '../../unit/transport/support.js';

const ATTACH = Buffer.concat(
  encodeFrame(FRAME_TYPES.attach, [
    encodeAttach({
      sessionId: Buffer.alloc(16, 0x77),
      channel: 'control',
      purpose: 'session',
      versions: PROTOCOL_VERSIONS,
    }),
  ]),
);

function withByte(at: number, value: number): Buffer {
  const bytes = Buffer.from(ATTACH);
  bytes.writeUInt8(value, at);
  return bytes;
}

/** What a stranger sends, and whether it then closes (FIN), resets, or just waits. */
const stranger = fc.record({
  bytes: fc.oneof(
    fc.constant(Buffer.alloc(0)),
    fc.uint8Array({ minLength: 1, maxLength: 3000 }).map((bytes) => Buffer.from(bytes)),
    fc.nat(ATTACH.length - 1).map((length) => ATTACH.subarray(0, length)),
    fc.integer({ min: 2, max: 255 }).map((version) => withByte(4, version)),
    fc.constantFrom(0x7f, 0xff, 1).map((high) => withByte(8, high)),
    fc.nat(ATTACH.length - 1).map((at) => withByte(at, (ATTACH[at] ?? 0) ^ 0x10)),
    fc
      .uint8Array({ maxLength: 60 })
      .map((payload) =>
        Buffer.concat(encodeFrame(FRAME_TYPES.attach, [Buffer.alloc(30, 9), Buffer.from(payload)])),
      ),
  ),
  ending: fc.constantFrom('end', 'reset', 'wait'),
});
type Stranger = typeof stranger extends fc.Arbitrary<infer T> ? T : never;

/** Resolves when the listener has closed the connection, or this side has. */
async function visit(port: number, { bytes, ending }: Stranger): Promise<void> {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {});
  const closed = once(socket, 'close').catch(() => {});
  socket.resume();
  await once(socket, 'connect');
  if (bytes.length > 0) await new Promise((resolve) => socket.write(bytes, resolve));
  if (ending === 'end') socket.end();
  if (ending === 'reset') socket.resetAndDestroy();
  await closed;
}

test('strangers are dropped with one log line each while a session runs on', async (t) => {
  const strangersPerRun = 24;
  const listening = await startListener(t, { attachDeadlineMs: 150 });
  const { near, far } = await startSession(t, listening);
  for (const channel of CHANNELS) {
    far.links[channel].onFrame((frame) => far.links[channel].send(frame.type, [frame.payload]));
  }
  let sent = 0;
  let returned = 0;
  let running = true;
  const idle = new Promise<void>((resolve) => {
    for (const channel of CHANNELS) {
      const sendNext = () => {
        sent += 1;
        near.links[channel].send(0x100, [Buffer.alloc(20_000, sent)]);
      };
      near.links[channel].onFrame(() => {
        returned += 1;
        if (running) sendNext();
        else if (returned === sent) resolve();
      });
      sendNext();
    }
  });

  let expectedLines = 0;
  const group = fc.array(stranger, { minLength: strangersPerRun, maxLength: strangersPerRun });
  await fc.assert(
    fc.asyncProperty(group, async (strangers) => {
      await Promise.all(strangers.map((one) => visit(listening.port, one)));
      expectedLines += strangers.length;
      await listening.log.reached(expectedLines);
      // Those who only wait were dropped last, so that a second line would be there by now.
      return listening.log.lines.length === expectedLines;
    }),
    { numRuns: 12 },
  );

  running = false;
  await idle;
  t.is(returned, sent);
  t.true(returned > 100);
  t.is(near.closeReason, undefined);
  t.is(far.closeReason, undefined);
  t.is(listening.sessions.length, 1);
  t.true(listening.log.lines.every((line) => line.level === 'warn'));
  t.true(listening.log.lines.every((line) => typeof line.fields['reason'] === 'string'));
});

test('a stranger that sends without end is cut off after its first frame', async (t) => {
  const listening = await startListener(t);
  const socket = net.connect(listening.port, '127.0.0.1');
  socket.on('error', () => {});
  t.teardown(() => socket.destroy());
  const chunk = Buffer.alloc(1 << 20, 0x43);
  const closed = once(socket, 'close').catch(() => {});
  let written = 0;
  const pump = () => {
    while (!socket.destroyed && written < 1 << 30 && socket.write(chunk)) written += chunk.length;
  };
  socket.on('drain', pump);
  socket.on('connect', pump);
  await closed;
  t.true(socket.bytesWritten < 1 << 29);
  t.is(listening.log.lines.length, 1);
});
