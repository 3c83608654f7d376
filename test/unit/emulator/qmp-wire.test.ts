import { readFileSync } from 'node:fs';
import test from 'ava';
import { parseGuestEvent } from '../../../src/emulator/guest-event.js';
import { encodeQmpCommand, QmpDecoder, type QmpEvent } from '../../../src/emulator/qmp-wire.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { goldenPath } from '../../support/golden.js';

const golden = readFileSync(goldenPath('qmp-7.2.txt'));
const LINE_MAX = 1024;

test('a session of QEMU 7.2 decodes into greeting, answers, errors and events', (t) => {
  const messages = new QmpDecoder(LINE_MAX).write(golden);
  t.deepEqual(messages[0], { kind: 'greeting', qemuVersion: '7.2.22' });
  t.deepEqual(messages[1], { kind: 'return', id: 1, value: {} });
  t.deepEqual(messages[2], { kind: 'event', name: 'RESUME', data: {} });
  t.deepEqual(messages[4], {
    kind: 'error',
    id: 3,
    errorClass: 'CommandNotFound',
    description: 'The command no-such has not been found',
  });
  t.deepEqual(messages[9], {
    kind: 'event',
    name: 'JOB_STATUS_CHANGE',
    data: { status: 'aborting', id: 'load1' },
  });
  t.is(messages.length, 16);
});

test('a session cut at any length decodes to its whole lines, and the end tells of the rest', (t) => {
  const all = new QmpDecoder(LINE_MAX).write(golden);
  for (let length = 0; length < golden.length; length++) {
    const decoder = new QmpDecoder(LINE_MAX);
    const messages = decoder.write(golden.subarray(0, length));
    t.deepEqual(messages, all.slice(0, messages.length));
    if (length === 0 || golden[length - 1] === 0x0a) t.notThrows(() => decoder.end());
    else t.throws(() => decoder.end(), { instanceOf: ProtocolError });
  }
});

test('a line of the limit passes, a longer one is refused before it ends', (t) => {
  const line = '{"return": "x"}';
  t.is(new QmpDecoder(line.length).write(Buffer.from(`${line}\n`)).length, 1);
  t.throws(() => new QmpDecoder(line.length).write(Buffer.from(`${line} \n`)), {
    instanceOf: ProtocolError,
  });
  const endless = new QmpDecoder(1000);
  endless.write(Buffer.alloc(1000, 'x'));
  t.throws(() => endless.write(Buffer.from('x')), { instanceOf: ProtocolError });
});

for (const line of [
  'garbage',
  '[]',
  '7',
  'null',
  '{}',
  '{"error": "text"}',
  '{"error": {"class": 1, "desc": "x"}}',
  '{"event": 5}',
  '{"QMP": {}}',
  '{"QMP": {"version": {"qemu": {"major": "7", "minor": 2, "micro": 0}}}}',
]) {
  test(`the line ${line} is refused`, (t) => {
    const bytes = Buffer.from(`${line}\n`);
    t.throws(() => new QmpDecoder(LINE_MAX).write(bytes), { instanceOf: ProtocolError });
  });
}

test('a command is one line with its id', (t) => {
  t.is(
    encodeQmpCommand(5, 'stop', { a: 'x\ny' }),
    '{"execute":"stop","arguments":{"a":"x\\ny"},"id":5}\r\n',
  );
});

test('events that matter become guest events, whatever their data are', (t) => {
  const event = (name: string, data: QmpEvent['data'] = {}): QmpEvent => ({
    kind: 'event',
    name,
    data,
  });
  t.deepEqual(parseGuestEvent(event('SHUTDOWN', { guest: true, reason: 'guest-shutdown' })), {
    kind: 'shutdown',
    byGuest: true,
    reason: 'guest-shutdown',
  });
  t.deepEqual(parseGuestEvent(event('RESET', { guest: 'yes' })), {
    kind: 'reset',
    byGuest: false,
    reason: 'unknown',
  });
  t.deepEqual(parseGuestEvent(event('GUEST_PANICKED')), { kind: 'panic' });
  t.deepEqual(parseGuestEvent(event('WATCHDOG', { action: 'reset' })), {
    kind: 'watchdog',
    action: 'reset',
  });
  t.deepEqual(
    parseGuestEvent(event('BLOCK_IO_ERROR', { 'node-name': 'disk-root', operation: 'write' })),
    { kind: 'disk-error', device: 'disk-root', operation: 'write' },
  );
  t.deepEqual(parseGuestEvent(event('STOP')), { kind: 'stopped' });
  t.deepEqual(parseGuestEvent(event('RESUME')), { kind: 'resumed' });
  t.is(parseGuestEvent(event('RTC_CHANGE')), undefined);
});
