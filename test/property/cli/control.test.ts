/** Whatever bytes reach the control socket: one connection, one log line, bounded memory. */
import { connect } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { decodeRequest, decodeResponse, LineDecoder } from '../../../src/cli/control-wire.js';
import { ControlServer, callAgent } from '../../../src/cli/index.js';
import { LINE_BYTES_MAX } from '../../../src/cli/limits.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { CollectingLog, FakeNode } from '../../support/fake-node.js';
import { closed } from '../../support/sockets.js';
import { temporaryFolder } from '../../support/temporary.js';

const GOOD = '{"id":1,"command":"status","arguments":{}}\n';

/** Bytes that look like the format for a while. */
const almost = fc.oneof(
  fc.uint8Array({ maxLength: 3000 }).map((bytes) => Buffer.from(bytes)),
  fc.json().map((text) => Buffer.from(`${text}\n`)),
  fc.tuple(fc.nat({ max: GOOD.length }), fc.uint8Array({ maxLength: 40 })).map(([cut, noise]) => {
    return Buffer.concat([Buffer.from(GOOD.slice(0, cut)), noise, Buffer.from('\n')]);
  }),
);

test('lines are the same however the bytes are split', (t) => {
  const lines = fc.array(fc.string({ unit: 'grapheme', maxLength: 50 }), { maxLength: 8 });
  fc.assert(
    fc.property(lines, fc.array(fc.nat({ max: 400 }), { maxLength: 12 }), (texts, cuts) => {
      const clean = texts.map((text) => text.replaceAll('\n', ' '));
      const bytes = Buffer.from(clean.map((text) => `${text}\n`).join(''));
      const decoder = new LineDecoder();
      const found: string[] = [];
      let start = 0;
      for (const cut of [...cuts, bytes.length].sort((a, b) => a - b)) {
        found.push(...decoder.write(bytes.subarray(start, Math.max(start, cut))));
        start = Math.max(start, Math.min(cut, bytes.length));
      }
      found.push(...decoder.write(bytes.subarray(start)));
      decoder.end();
      t.deepEqual(found, clean);
    }),
  );
});

test('decoders throw ProtocolError only, and hold no more than a line', (t) => {
  const decode = (line: string, decoder: (line: string) => unknown): void => {
    try {
      decoder(line);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      if (error.message.length > 500) throw new Error('The message is not bounded');
    }
  };
  fc.assert(
    fc.property(fc.array(almost, { maxLength: 6 }), (chunks) => {
      const decoder = new LineDecoder();
      for (const chunk of chunks) {
        let lines: string[] = [];
        try {
          lines = decoder.write(chunk);
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
          return;
        }
        t.true(decoder.heldBytes <= LINE_BYTES_MAX);
        for (const line of lines) {
          decode(line, decodeRequest);
          decode(line, decodeResponse);
        }
      }
    }),
    { numRuns: 1000 },
  );
});

test('random bytes on the socket cost one connection and one log line', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  const log = new CollectingLog();
  const server = await ControlServer.start({ path, log });
  t.teardown(() => server.stop());
  server.serve(new FakeNode());
  await fc.assert(
    fc.asyncProperty(almost, async (bytes) => {
      log.lines.length = 0;
      const before = server.counters.malformed;
      const socket = connect(path);
      const gone = closed(socket);
      socket.resume();
      // The newline and the cut line behind it make every input malformed by its end.
      socket.end(Buffer.concat([bytes, Buffer.from('\n{"id"')]));
      await gone;
      t.is(server.counters.malformed, before + 1);
      t.deepEqual(log.lines, ['warn Dropped a control connection']);
      t.true((await callAgent(path, { command: 'status', arguments: {} }, 10_000)).ok);
    }),
    { numRuns: 150 },
  );
});

test('a sender of endless lines is dropped before it costs memory', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  const server = await ControlServer.start({ path, log: new CollectingLog() });
  t.teardown(() => server.stop());
  const socket = connect(path);
  const gone = closed(socket);
  socket.resume();
  let sentBytes = 0;
  const chunk = Buffer.alloc(64 * 1024, 0x78);
  const send = (): void => {
    while (!socket.destroyed && sentBytes < 256 * 1024 ** 2) {
      sentBytes += chunk.length;
      if (!socket.write(chunk)) return;
    }
  };
  socket.on('drain', send);
  send();
  await gone;
  t.is(server.counters.malformed, 1);
  t.true(sentBytes < 16 * 1024 ** 2, `${sentBytes} bytes were taken`);
});

test('a sender of endless requests that never reads is held up, not buffered', async (t) => {
  const path = join(temporaryFolder(t), 'a.sock');
  const log = new CollectingLog();
  const server = await ControlServer.start({ path, log, idleMs: 300 });
  t.teardown(() => server.stop());
  server.serve(new FakeNode());
  const socket = connect(path);
  const gone = closed(socket);
  socket.pause();
  const requests = Buffer.from(GOOD.repeat(1000));
  const limitBytes = 64 * 1024 ** 2;
  let sentBytes = 0;
  const send = (): void => {
    while (!socket.destroyed && sentBytes < limitBytes) {
      sentBytes += requests.length;
      if (!socket.write(requests)) return;
    }
  };
  socket.on('drain', send);
  send();
  await gone;
  t.is(server.counters.idle, 1);
  t.deepEqual(log.lines, ['info Closed a silent control connection']);
  t.true(sentBytes < 4 * 1024 ** 2, `${sentBytes} bytes were taken`);
});
