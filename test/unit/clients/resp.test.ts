import test from 'ava';
import { encodeCommand, RespParser, type RespValue } from '../../../scripts/clients/resp.js';
import { ProtocolError } from '../../../src/lib/index.js';

const REPLIES =
  '+OK\r\n-ERR no\r\n:-42\r\n$5\r\na\r\nbc\r\n$-1\r\n*2\r\n$0\r\n\r\n*1\r\n:1\r\n*-1\r\n';
const EXPECTED: RespValue[] = [
  { kind: 'status', text: 'OK' },
  { kind: 'error', text: 'ERR no' },
  { kind: 'integer', value: -42 },
  { kind: 'bulk', bytes: Buffer.from('a\r\nbc') },
  { kind: 'null' },
  {
    kind: 'array',
    items: [
      { kind: 'bulk', bytes: Buffer.alloc(0) },
      { kind: 'array', items: [{ kind: 'integer', value: 1 }] },
    ],
  },
  { kind: 'null' },
];

function parse(text: string): RespValue[] {
  return new RespParser().write(Buffer.from(text));
}

test('every kind of reply is decoded', (t) => {
  t.deepEqual(parse(REPLIES), EXPECTED);
});

test('a split at any offset makes no difference', (t) => {
  for (let cut = 0; cut <= REPLIES.length; cut++) {
    const parser = new RespParser();
    const first = parser.write(Buffer.from(REPLIES.slice(0, cut)));
    t.deepEqual([...first, ...parser.write(Buffer.from(REPLIES.slice(cut)))], EXPECTED);
  }
});

test('a truncated reply is kept back', (t) => {
  for (const text of ['+OK\r', '$5\r\nabcde\r', '*2\r\n:1\r\n', '*1\r\n$3\r\nab']) {
    t.deepEqual(parse(text), []);
  }
});

test('lengths beyond the limits are refused before anything is kept for them', (t) => {
  for (const text of [
    '$1048577\r\n',
    '*4097\r\n',
    '$-2\r\n',
    '*-2\r\n',
    '$99999999999999999999\r\n',
  ]) {
    t.throws(() => parse(text), { instanceOf: ProtocolError }, text);
  }
});

test('an endless line, deep nesting and endless incomplete data are refused', (t) => {
  t.throws(() => parse(`+${'x'.repeat(5000)}`), { instanceOf: ProtocolError });
  t.throws(() => parse('*1\r\n'.repeat(6)), { instanceOf: ProtocolError });
  const parser = new RespParser();
  parser.write(Buffer.from(`*4096\r\n`));
  const element = Buffer.concat([
    Buffer.from('$1000000\r\n'),
    Buffer.alloc(1_000_000, 0x61),
    Buffer.from('\r\n'),
  ]);
  t.throws(
    () => {
      for (let i = 0; i < 20; i++) parser.write(element);
    },
    { instanceOf: ProtocolError },
  );
});

test('what is no reply is refused', (t) => {
  for (const text of ['HTTP/1.1 400\r\n', ':1x\r\n', ':\r\n', '$1\r\nabc', '\r\n']) {
    t.throws(() => parse(text), { instanceOf: ProtocolError }, text);
  }
});

test('a command is a list of strings whose lengths are in bytes', (t) => {
  t.is(encodeCommand(['SET', 'ü', '1']).toString(), '*3\r\n$3\r\nSET\r\n$2\r\nü\r\n$1\r\n1\r\n');
});
