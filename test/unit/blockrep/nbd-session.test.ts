import test from 'ava';
import { NBD_OPTION_BYTES_MAX, NBD_PAYLOAD_BYTES_MAX } from '../../../src/blockrep/limits.js';
import { NbdSession } from '../../../src/blockrep/nbd-session.js';
import {
  encodeExportNameReply,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoName,
  encodeOptionReply,
  encodeServerName,
  encodeSimpleReply,
  NBD_ERROR,
} from '../../../src/blockrep/nbd-wire.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { clientFlags, drain, infoData, option, request, sent } from './support.js';

const EXPORTS = new Map([
  ['disk0', { sizeBytes: 1 << 20, readOnly: false }],
  ['frozen', { sizeBytes: 1 << 20, readOnly: true }],
]);
/** has flags, flush, FUA, trim, write zeroes, multi-conn. */
const FLAGS = 1 | 4 | 8 | 32 | 64 | 256;

function greeted(flags = 3): NbdSession {
  const session = new NbdSession(EXPORTS);
  session.receive(clientFlags(flags));
  drain(session);
  return session;
}

function attached(name = 'disk0'): NbdSession {
  const session = greeted();
  session.receive(option(7, infoData(name)));
  drain(session);
  return session;
}

/** What the session answers to the bytes. */
function answer(session: NbdSession, bytes: Buffer) {
  session.receive(bytes);
  return drain(session);
}

test('the greeting is that of fixed newstyle', (t) => {
  const [greeting] = drain(new NbdSession(EXPORTS));
  const expected = `${Buffer.from('NBDMAGICIHAVEOPT').toString('hex')}0003`;
  t.is(greeting?.kind === 'send' ? greeting.bytes.toString('hex') : '', expected);
});

test('an unknown client flag ends the connection', (t) => {
  const session = new NbdSession(EXPORTS);
  session.receive(clientFlags(4));
  t.throws(() => drain(session), { instanceOf: ProtocolError });
  t.is(session.next(), undefined);
});

test('EXPORT_NAME attaches, with padding only for clients that want it', (t) => {
  for (const flags of [1, 3]) {
    const instructions = answer(greeted(flags), option(1, Buffer.from('disk0')));
    const reply = encodeExportNameReply(1 << 20, FLAGS, { noZeroes: flags === 3 });
    t.is(reply.length, flags === 3 ? 10 : 134);
    t.deepEqual(instructions, [
      { kind: 'send', bytes: reply },
      { kind: 'attach', name: 'disk0' },
    ]);
  }
});

test('EXPORT_NAME of an unknown export ends the connection', (t) => {
  const session = greeted();
  session.receive(option(1, Buffer.from('nope')));
  t.throws(() => drain(session), { instanceOf: ProtocolError, message: /"nope"/ });
});

test('GO answers what was asked for and attaches', (t) => {
  const instructions = answer(greeted(), option(7, infoData('frozen', [1, 3, 99])));
  const expected = [
    encodeOptionReply(7, 3, encodeInfoExport(1 << 20, FLAGS | 2)),
    encodeOptionReply(7, 3, encodeInfoName('frozen')),
    encodeOptionReply(7, 3, encodeInfoBlockSize()),
    encodeOptionReply(7, 1),
  ];
  t.deepEqual(sent(instructions), Buffer.concat(expected));
  t.deepEqual(instructions.at(-1), { kind: 'attach', name: 'frozen' });
});

test('INFO tells the same and stays in negotiation', (t) => {
  const session = greeted();
  const instructions = answer(session, option(6, infoData('disk0')));
  t.is(instructions.filter((each) => each.kind === 'attach').length, 0);
  t.false(session.negotiated);
  t.deepEqual(answer(session, option(7, infoData('disk0'))).at(-1), {
    kind: 'attach',
    name: 'disk0',
  });
});

test('GO of an unknown or the empty name is answered with an error', (t) => {
  const session = greeted();
  for (const name of ['nope', '']) {
    const instructions = answer(session, option(7, infoData(name)));
    t.deepEqual(sent(instructions), encodeOptionReply(7, 0x8000_0006));
  }
});

test('the empty name means the only export', (t) => {
  const session = new NbdSession(new Map([['one', { sizeBytes: 512, readOnly: false }]]));
  session.receive(clientFlags());
  const instructions = answer(session, option(7, infoData('')));
  t.deepEqual(instructions.at(-1), { kind: 'attach', name: 'one' });
});

test('malformed GO data is answered with an error', (t) => {
  const session = greeted();
  const short = Buffer.from([0, 0, 0, 9, 65]);
  t.deepEqual(sent(answer(session, option(7, short))), encodeOptionReply(7, 0x8000_0003));
  const trailing = Buffer.concat([infoData('disk0'), Buffer.alloc(1)]);
  t.deepEqual(sent(answer(session, option(7, trailing))), encodeOptionReply(7, 0x8000_0003));
});

test('LIST names the exports, and refuses data', (t) => {
  const session = greeted();
  const expected = [
    encodeOptionReply(3, 2, encodeServerName('disk0')),
    encodeOptionReply(3, 2, encodeServerName('frozen')),
    encodeOptionReply(3, 1),
  ];
  t.deepEqual(sent(answer(session, option(3))), Buffer.concat(expected));
  t.deepEqual(sent(answer(session, option(3, Buffer.alloc(1)))), encodeOptionReply(3, 0x8000_0003));
});

test('STARTTLS, extended headers and unknown options are refused', (t) => {
  const session = greeted();
  for (const number of [4, 5, 11, 4711]) {
    const instructions = answer(session, option(number, Buffer.alloc(number % 7)));
    t.deepEqual(sent(instructions), encodeOptionReply(number, 0x8000_0001));
  }
});

test('ABORT is acknowledged and ends', (t) => {
  const instructions = answer(greeted(), option(2));
  t.deepEqual(instructions, [{ kind: 'send', bytes: encodeOptionReply(2, 1) }, { kind: 'end' }]);
});

test('a wrong option magic, too much data or too many options end the connection', (t) => {
  const magic = option(3);
  magic[0] = 0;
  const large = option(3);
  large.writeUInt32BE(NBD_OPTION_BYTES_MAX + 1, 12);
  const many = Buffer.concat(Array.from({ length: 65 }, () => option(8)));
  for (const bytes of [magic, large, many]) {
    const session = greeted();
    session.receive(bytes);
    t.throws(() => drain(session), { instanceOf: ProtocolError });
    session.receive(option(3));
    t.is(session.next(), undefined);
  }
});

test('requests come out with what the client asked for', (t) => {
  const session = attached();
  const data = Buffer.from('sector');
  const bytes = Buffer.concat([
    request('read', { cookie: 1n, offset: 4096, length: 512 }),
    request('write', { cookie: 2n, offset: 512, data, flags: 1 }),
    request('writeZeroes', { cookie: 3n, offset: 0, length: 1 << 20, flags: 2 }),
    request('writeZeroes', { cookie: 4n, offset: 0, length: 512, flags: 1 }),
    request('trim', { cookie: 5n, offset: 1024, length: 512 }),
    request('flush', { cookie: 0xffff_ffff_ffff_ffffn }),
    request('disconnect', {}),
  ]);
  const requests = answer(session, bytes).map((each) =>
    each.kind === 'request' ? each.request : each.kind,
  );
  t.deepEqual(requests, [
    { kind: 'read', cookie: 1n, offset: 4096, length: 512, structured: false, mayRefer: false },
    { kind: 'write', cookie: 2n, offset: 512, length: 6, data, fua: true },
    { kind: 'writeZeroes', cookie: 3n, offset: 0, length: 1 << 20, mayTrim: false, fua: false },
    { kind: 'writeZeroes', cookie: 4n, offset: 0, length: 512, mayTrim: true, fua: true },
    { kind: 'trim', cookie: 5n, offset: 1024, length: 512, fua: false },
    { kind: 'flush', cookie: 0xffff_ffff_ffff_ffffn },
    'end',
  ]);
});

const REFUSED: [string, Buffer, number][] = [
  ['a read beyond the end', request('read', { offset: 1 << 20, length: 1 }), NBD_ERROR.EINVAL],
  ['a read at 2^64 - 1', request('read', { offset: 2n ** 64n - 1n, length: 1 }), NBD_ERROR.EINVAL],
  ['a read of too much', request('read', { length: 0xffff_ffff }), NBD_ERROR.EINVAL],
  ['a zeroing beyond the end', request('writeZeroes', { offset: 1, length: 1 << 20 }), 28],
  ['a trim beyond the end', request('trim', { offset: 1, length: 1 << 20 }), NBD_ERROR.EINVAL],
  ['CACHE', request('cache', { length: 512 }), NBD_ERROR.EINVAL],
  ['BLOCK_STATUS', request(7, { length: 512 }), NBD_ERROR.EINVAL],
  ['RESIZE', request(8, { length: 512 }), NBD_ERROR.EINVAL],
  ['DF without structured replies', request('read', { flags: 4, length: 1 }), NBD_ERROR.EINVAL],
  ['an unknown command', request(999, { length: 512 }), NBD_ERROR.EINVAL],
  ['a flag that is not for reads', request('read', { flags: 2, length: 1 }), NBD_ERROR.EINVAL],
  ['FAST_ZERO', request('writeZeroes', { flags: 16, length: 512 }), NBD_ERROR.EINVAL],
  ['a flush with a range', request('flush', { length: 1 }), NBD_ERROR.EINVAL],
];

for (const [what, bytes, error] of REFUSED) {
  test(`${what} is answered with error ${error}`, (t) => {
    t.deepEqual(answer(attached(), bytes), [
      { kind: 'send', bytes: encodeSimpleReply(7n, error as 22) },
    ]);
  });
}

test('a refused write swallows its payload', (t) => {
  const data = Buffer.alloc(1000, 1);
  for (const [name, offset, error] of [
    ['disk0', (1 << 20) - 999, NBD_ERROR.ENOSPC],
    ['frozen', 0, NBD_ERROR.EPERM],
  ] as const) {
    const bytes = Buffer.concat([
      request('write', { offset, data }),
      request('flush', { cookie: 9n }),
    ]);
    t.deepEqual(answer(attached(name), bytes), [
      { kind: 'send', bytes: encodeSimpleReply(7n, error) },
      { kind: 'request', request: { kind: 'flush', cookie: 9n } },
    ]);
  }
});

test('a read-only export refuses zeroes and trims', (t) => {
  for (const command of ['writeZeroes', 'trim'] as const) {
    const instructions = answer(attached('frozen'), request(command, { length: 512 }));
    t.deepEqual(sent(instructions), encodeSimpleReply(7n, NBD_ERROR.EPERM));
  }
});

test('a write larger than the limit ends the connection before anything is allocated', (t) => {
  const session = attached();
  session.receive(request('write', { length: NBD_PAYLOAD_BYTES_MAX + 1 }));
  t.throws(() => drain(session), { instanceOf: ProtocolError });
});

test('a wrong request magic ends the connection', (t) => {
  const session = attached();
  session.receive(Buffer.alloc(28));
  t.throws(() => drain(session), { instanceOf: ProtocolError });
});
