/** Structured replies and block status: what is agreed, and the bytes of the answers. */
import test from 'ava';
import { encodeExtents } from '../../../src/blockrep/nbd-extents.js';
import { encodeFileReference } from '../../../src/blockrep/nbd-references.js';
import {
  encodeReplyHead,
  type NbdRequest,
  NbdSession,
  type NbdSessionOptions,
} from '../../../src/blockrep/nbd-session.js';
import { encodeOptionReply, encodeSimpleReply } from '../../../src/blockrep/nbd-wire.js';
import { clientFlags, drain, infoData, metaData, option, request, sent } from './support.js';

const SIZE = 1 << 20;
const EXPORTS = new Map([
  ['disk0', { sizeBytes: SIZE, readOnly: false }],
  ['frozen', { sizeBytes: SIZE, readOnly: true }],
]);
const STRUCTURED = 8;
const LIST_META = 9;
const SET_META = 10;
const INVALID = 0x8000_0003;
const UNKNOWN = 0x8000_0006;

function greeted(options: NbdSessionOptions = {}): NbdSession {
  const session = new NbdSession(EXPORTS, options);
  session.receive(clientFlags());
  drain(session);
  return session;
}

function answer(session: NbdSession, bytes: Buffer) {
  session.receive(bytes);
  return drain(session);
}

/** Attached with structured replies; `queries` were set before. */
function attached(queries: readonly string[] = [], setOn = 'disk0'): NbdSession {
  const session = greeted();
  answer(session, option(STRUCTURED));
  answer(session, option(SET_META, metaData(setOn, queries)));
  answer(session, option(7, infoData('disk0')));
  return session;
}

function context(number: number): Buffer {
  const data = Buffer.concat([Buffer.from([0, 0, 0, 1]), Buffer.from('base:allocation')]);
  return Buffer.concat([encodeOptionReply(number, 4, data), encodeOptionReply(number, 1)]);
}

test('structured replies are acknowledged, with data refused, and DF is offered then', (t) => {
  const session = greeted();
  t.deepEqual(
    sent(answer(session, option(STRUCTURED, Buffer.alloc(1)))),
    encodeOptionReply(STRUCTURED, INVALID),
  );
  t.deepEqual(sent(answer(session, option(STRUCTURED))), encodeOptionReply(STRUCTURED, 1));
  const info = sent(answer(session, option(6, infoData('disk0'))));
  t.is(info.readUInt16BE(20 + 10) & 128, 128);
  const without = sent(answer(greeted(), option(6, infoData('disk0'))));
  t.is(without.readUInt16BE(20 + 10) & 128, 0);
});

test('metadata contexts are listed by nothing, by their namespace and by their name', (t) => {
  for (const queries of [[], ['base:'], ['base:allocation'], ['x:y', 'base:allocation']]) {
    const session = greeted();
    answer(session, option(STRUCTURED));
    const bytes = option(LIST_META, metaData('disk0', queries));
    t.deepEqual(sent(answer(session, bytes)), context(LIST_META));
  }
  for (const queries of [['x:y'], ['base:alloc'], ['base']]) {
    const session = greeted();
    answer(session, option(STRUCTURED));
    const bytes = option(LIST_META, metaData('disk0', queries));
    t.deepEqual(sent(answer(session, bytes)), encodeOptionReply(LIST_META, 1));
  }
});

test('a metadata context is set by its full name only', (t) => {
  const session = greeted();
  answer(session, option(STRUCTURED));
  const set = (queries: string[]) =>
    sent(answer(session, option(SET_META, metaData('disk0', queries))));
  t.deepEqual(set(['base:allocation']), context(SET_META));
  t.deepEqual(set(['base:']), encodeOptionReply(SET_META, 1));
  t.deepEqual(set([]), encodeOptionReply(SET_META, 1));
});

test('metadata contexts need structured replies, a known export and whole data', (t) => {
  const session = greeted();
  const good = metaData('disk0', ['base:allocation']);
  for (const number of [LIST_META, SET_META]) {
    t.deepEqual(sent(answer(session, option(number, good))), encodeOptionReply(number, INVALID));
  }
  answer(session, option(STRUCTURED));
  for (const number of [LIST_META, SET_META]) {
    const reply = (data: Buffer) => sent(answer(session, option(number, data)));
    t.deepEqual(reply(metaData('nope', [])), encodeOptionReply(number, UNKNOWN));
    t.deepEqual(reply(good.subarray(0, -1)), encodeOptionReply(number, INVALID));
    t.deepEqual(reply(Buffer.concat([good, Buffer.alloc(1)])), encodeOptionReply(number, INVALID));
    const many = metaData(
      'disk0',
      Array.from({ length: 33 }, () => 'x'),
    );
    t.deepEqual(reply(many), encodeOptionReply(number, INVALID));
  }
});

test('reads and block status come out as such, with DF and REQ_ONE', (t) => {
  const bytes = Buffer.concat([
    request('read', { offset: 512, length: 512, flags: 4 }),
    request('blockStatus', { offset: 1, length: 100, flags: 8 }),
    request('blockStatus', { offset: 0, length: SIZE }),
  ]);
  const requests = answer(attached(['base:allocation']), bytes).map((each) =>
    each.kind === 'request' ? each.request : each.kind,
  );
  t.deepEqual(requests, [
    { kind: 'read', cookie: 7n, offset: 512, length: 512, structured: true, mayRefer: false },
    { kind: 'blockStatus', cookie: 7n, offset: 1, length: 100, one: true },
    { kind: 'blockStatus', cookie: 7n, offset: 0, length: SIZE, one: false },
  ]);
});

test('a reply may refer to a file if the client can open it, wants it and takes chunks', (t) => {
  const bytes = request('read', { length: 512, flags: 0x8000 });
  const plain = greeted({ lendsFiles: true });
  answer(plain, option(7, infoData('disk0')));
  t.deepEqual(sent(answer(plain, bytes)), encodeSimpleReply(7n, 22));
  t.is(sent(answer(attached(), bytes)).toString('hex'), EINVAL_CHUNK);
  const session = greeted({ lendsFiles: true });
  answer(session, option(STRUCTURED));
  answer(session, option(7, infoData('disk0')));
  const read = { kind: 'read', cookie: 7n, offset: 0, length: 512, structured: true };
  t.deepEqual(answer(session, bytes), [{ kind: 'request', request: { ...read, mayRefer: true } }]);
  const other = request('trim', { length: 512, flags: 0x8000 });
  t.deepEqual(sent(answer(session, other)), encodeSimpleReply(7n, 22));
  const place = { cookie: 7n, offset: 512, length: 16 };
  for (const [isWhole, flags] of [
    [false, '8001'],
    [true, 'c001'],
  ] as const) {
    t.is(
      encodeFileReference(place, { fd: 20, serial: 3, isWhole }).toString('hex'),
      `668e33ef${flags}0001${'0000000000000007'}00000018${'0000000000000200'}0000001400000003`,
    );
  }
});

const EINVAL_CHUNK = `668e33ef00018001000000000000000700000006${'00000016'}${'0000'}`;

test('what is refused of reads and block status is an error chunk, the rest a simple reply', (t) => {
  const session = attached(['base:allocation']);
  for (const bytes of [
    request('read', { offset: SIZE, length: 1 }),
    request('read', { length: 0xffff_ffff }),
    request('read', { length: 1, flags: 8 }),
    request('blockStatus', { offset: SIZE - 1, length: 2 }),
    request('blockStatus', { length: 0 }),
    request('blockStatus', { length: 1, flags: 2 }),
  ]) {
    t.is(sent(answer(session, bytes)).toString('hex'), EINVAL_CHUNK);
  }
  const trim = request('trim', { offset: SIZE, length: 1 });
  t.deepEqual(sent(answer(session, trim)), encodeSimpleReply(7n, 22));
});

test('block status needs a context that was set for this export', (t) => {
  for (const session of [attached(), attached(['base:allocation'], 'frozen')]) {
    const bytes = request('blockStatus', { length: 512 });
    t.is(sent(answer(session, bytes)).toString('hex'), EINVAL_CHUNK);
  }
});

test('heads of replies have the bytes of proto.md', (t) => {
  const read: NbdRequest = {
    kind: 'read',
    cookie: 0x0102030405060708n,
    offset: 0x1000,
    length: 16,
    structured: true,
    mayRefer: false,
  };
  const hex = (...parameters: Parameters<typeof encodeReplyHead>) =>
    encodeReplyHead(...parameters).toString('hex');
  t.is(hex(read, 0, 16), `668e33ef000100010102030405060708${'00000018'}${'0000000000001000'}`);
  t.is(hex({ ...read, length: 0 }, 0, 0), '668e33ef00010000010203040506070800000000');
  t.is(hex(read, 5, 0), `668e33ef000180010102030405060708${'00000006'}${'00000005'}${'0000'}`);
  t.is(hex({ ...read, structured: false }, 0, 16), '67446698000000000102030405060708');
  const status: NbdRequest = {
    kind: 'blockStatus',
    cookie: 0x0102030405060708n,
    offset: 0,
    length: 16,
    one: false,
  };
  t.is(hex(status, 0, 12), '668e33ef0001000501020304050607080000000c');
  t.is(hex({ kind: 'flush', cookie: 1n }, 0, 0), '67446698000000000000000000000001');
});

/** Lengths and states of a block status. */
function extents(...parameters: Parameters<typeof encodeExtents>): [number, number][] {
  const bytes = encodeExtents(...parameters);
  const found: [number, number][] = [];
  for (let at = 4; at < bytes.length; at += 8) {
    found.push([bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)]);
  }
  return found;
}

test('extents cover the range from its start, data and holes in turn', (t) => {
  const range = { offset: 100, length: 100 };
  const many = { countMax: 8, one: false };
  const data = [
    { offset: 110, length: 20 },
    { offset: 150, length: 50 },
  ];
  t.deepEqual(extents(range, data, many), [
    [10, 3],
    [20, 0],
    [20, 3],
    [50, 0],
  ]);
  t.deepEqual(extents(range, [], many), [[100, 3]]);
  t.deepEqual(extents(range, [{ offset: 100, length: 100 }], many), [[100, 0]]);
  t.deepEqual(extents(range, data.slice(0, 1), many), [
    [10, 3],
    [20, 0],
    [70, 3],
  ]);
});

test('extents end with the last data range when there may be more', (t) => {
  const range = { offset: 100, length: 100 };
  const data = [{ offset: 110, length: 20 }];
  t.deepEqual(extents(range, data, { countMax: 1, one: false }), [
    [10, 3],
    [20, 0],
  ]);
  t.deepEqual(extents(range, data, { countMax: 1, one: true }), [[10, 3]]);
});
