import test from 'ava';
import {
  decodeCommand,
  decodeDone,
  decodeRequest,
  decodeResponse,
  decodeStatus,
  encodeRequest,
  encodeResponse,
  LineDecoder,
} from '../../../src/cli/control-wire.js';
import { LINE_BYTES_MAX } from '../../../src/cli/limits.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { fullStatus } from '../../support/fake-node.js';

const MALFORMED = { instanceOf: ProtocolError };

test('a request survives its line', (t) => {
  const line = encodeRequest(7, { command: 'set-period', arguments: { periodUs: 200_000 } });
  t.is(line, '{"id":7,"command":"set-period","arguments":{"periodUs":200000}}\n');
  const request = decodeRequest(line);
  t.deepEqual(decodeCommand(request), {
    ok: true,
    command: { command: 'set-period', arguments: { periodUs: 200_000 } },
  });
});

test('both kinds of responses survive their lines', (t) => {
  const good = { id: 1, ok: true, result: { detail: 'x' } } as const;
  const bad = { id: 2, ok: false, error: { code: 'COLO_E_X', reason: 'y' } } as const;
  t.deepEqual(decodeResponse(encodeResponse(good)), good);
  t.deepEqual(decodeResponse(encodeResponse(bad)), bad);
  t.deepEqual(decodeDone(good.result), { detail: 'x' });
});

test('a reason that is too long arrives cut', (t) => {
  const error = { code: 'COLO_E_QEMU', reason: 'x'.repeat(100_000) };
  const response = decodeResponse(encodeResponse({ id: 1, ok: false, error }));
  t.regex(response.ok ? '' : response.error.reason, /^x{4093}\.{3}$/);
});

test('what is no request breaks the format', (t) => {
  const lines = [
    '',
    '{',
    'null',
    '[]',
    '1',
    '{}',
    '{"id":-1,"command":"status","arguments":{}}',
    '{"id":1.5,"command":"status","arguments":{}}',
    '{"id":1e300,"command":"status","arguments":{}}',
    '{"id":1,"command":1,"arguments":{}}',
    '{"id":1,"command":"status","arguments":[]}',
    '{"id":1,"command":"status"}',
    '{"id":1,"command":"status","arguments":{},"more":1}',
    `{"id":1,"command":"${'x'.repeat(65)}","arguments":{}}`,
    '['.repeat(60_000),
  ];
  for (const line of lines) t.throws(() => decodeRequest(line), MALFORMED, line.slice(0, 80));
});

test('an unknown command and wrong arguments are answers, not breaks', (t) => {
  const ask = (command: string, args: Record<string, unknown>) =>
    decodeCommand({ id: 1, command, arguments: args });
  t.like(ask('reboot', {}), { ok: false, code: 'COLO_E_UNKNOWN_COMMAND' });
  t.like(ask('toString', {}), { ok: false, code: 'COLO_E_UNKNOWN_COMMAND' });
  t.like(ask('set-period', { periodUs: 9_999 }), { ok: false, code: 'COLO_E_USAGE' });
  t.like(ask('set-period', { periodUs: '1' }), { ok: false, code: 'COLO_E_USAGE' });
  t.like(ask('set-period', { periodUs: 'auto' }), { ok: true });
  t.like(ask('set-period', { periodUs: 'never' }), { ok: false, code: 'COLO_E_USAGE' });
  t.like(ask('set-mode', { mode: 'colo' }), { ok: true });
  t.like(ask('set-mode', { mode: 'remus' }), { ok: false, code: 'COLO_E_USAGE' });
  const capture = { dir: '/d', durationUs: 1_000_000, nic: 0, bytesMax: 1 << 20 };
  t.like(ask('capture', capture), { ok: true, command: { command: 'capture' } });
  const wrong = [
    { dir: 'd' },
    { dir: '' },
    { dir: '/d\0' },
    { dir: `/${'d'.repeat(4095)}` },
    { durationUs: 99_999 },
    { durationUs: 600_000_001 },
    { nic: -1 },
    { nic: 0.5 },
    { nic: 8 },
    { bytesMax: 0 },
    { bytesMax: 2 ** 60 },
    { more: 1 },
  ];
  for (const change of wrong) {
    const answer = ask('capture', { ...capture, ...change });
    t.like(answer, { ok: false, code: 'COLO_E_USAGE' }, JSON.stringify(change));
  }
  t.like(ask('failover', {}), { ok: false, code: 'COLO_E_USAGE' });
  t.like(ask('status', { x: 1 }), { ok: false, code: 'COLO_E_USAGE' });
});

test('a status is checked, and fields that a newer agent adds are left out', (t) => {
  t.deepEqual(decodeStatus({ ...fullStatus(), news: 1 }), fullStatus());
  t.throws(() => decodeStatus({ ...fullStatus(), epoch: '1' }), MALFORMED);
  t.throws(() => decodeStatus(null), MALFORMED);
});

test('a line of exactly the limit passes, one more byte does not', (t) => {
  const decoder = new LineDecoder();
  t.is(decoder.write(Buffer.from(`${'x'.repeat(LINE_BYTES_MAX)}\n`))[0]?.length, LINE_BYTES_MAX);
  t.throws(() => decoder.write(Buffer.alloc(LINE_BYTES_MAX + 1, 0x78)), MALFORMED);
});

test('a line without end is refused as it grows', (t) => {
  const decoder = new LineDecoder();
  const chunk = Buffer.alloc(LINE_BYTES_MAX / 4, 0x78);
  for (let index = 0; index < 4; index += 1) t.deepEqual(decoder.write(chunk), []);
  t.is(decoder.heldBytes, LINE_BYTES_MAX);
  t.throws(() => decoder.write(Buffer.from('x')), MALFORMED);
});

test('bytes that are no UTF-8 and an end within a line break the format', (t) => {
  t.throws(() => new LineDecoder().write(Buffer.from([0xff, 0x0a])), MALFORMED);
  const decoder = new LineDecoder();
  decoder.write(Buffer.from('x'));
  t.throws(() => decoder.end(), MALFORMED);
});
