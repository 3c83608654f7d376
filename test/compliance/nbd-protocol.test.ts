/**
 * The corners of the NBD protocol, spoken byte by byte with the real server.
 * Source: NBD doc/proto.md, "Handshake phase" and "Transmission phase".
 */
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { DiskError } from '../../src/blockrep/errors.js';
import { ImageFile } from '../../src/blockrep/index.js';
import { NBD_OPTION_BYTES_MAX } from '../../src/blockrep/limits.js';
import {
  clientFlags,
  infoData,
  MemoryDisk,
  metaData,
  option,
  RawClient,
  request,
  serveDisks,
  temporaryDirectory,
} from '../unit/blockrep/support.js';

const MIB = 1 << 20;
const ACK = 1;
const UNSUPPORTED = 0x8000_0001;
const INVALID = 0x8000_0003;
const UNKNOWN = 0x8000_0006;
const FUA = 1;
const EINVAL = 22;
const ENOSPC = 28;

async function greeted(t: ExecutionContext, flags = 3) {
  const disk = new MemoryDisk(MIB);
  const served = await serveDisks(t, { disk0: disk, other: new MemoryDisk(MIB) });
  const client = await RawClient.connect(t, served.socketPath);
  await client.take(18);
  client.send(clientFlags(flags));
  return { ...served, disk, client };
}

/** Type and data of the next reply to an option. */
async function optionReply(client: RawClient): Promise<{ type: number; data: Buffer }> {
  const head = await client.take(20);
  const type = head.readUInt32BE(12);
  return { type, data: await client.take(head.readUInt32BE(16)) };
}

/** Types of the replies up to the one that ends the answer. */
async function replyTypes(client: RawClient, bytes: Buffer): Promise<number[]> {
  client.send(bytes);
  const types: number[] = [];
  for (;;) {
    const { type } = await optionReply(client);
    types.push(type);
    if (type === ACK || type >= 0x8000_0000) return types;
  }
}

/** The client is still served: it chooses an export and reads. */
async function stillWorks(t: ExecutionContext, client: RawClient): Promise<void> {
  t.deepEqual(await replyTypes(client, option(7, infoData('disk0'))), [3, ACK]);
  client.send(request('flush', { cookie: 99n }));
  t.deepEqual(await client.reply(), { error: 0, cookie: 99n });
}

test('unknown options, STARTTLS and extended headers are refused and the client goes on', async (t) => {
  const { client } = await greeted(t);
  for (const number of [0, 4, 5, 11, 0xffff_ffff]) {
    t.deepEqual(await replyTypes(client, option(number, Buffer.alloc(7))), [UNSUPPORTED]);
  }
  await stillWorks(t, client);
});

test('wrong names and malformed options are refused and the client goes on', async (t) => {
  const { client } = await greeted(t);
  const short = Buffer.from([0, 0, 0, 200, 65]);
  for (const number of [6, 7]) {
    t.deepEqual(await replyTypes(client, option(number, infoData('nope'))), [UNKNOWN]);
    t.deepEqual(await replyTypes(client, option(number, infoData(''))), [UNKNOWN]);
    t.deepEqual(await replyTypes(client, option(number, short)), [INVALID]);
    t.deepEqual(await replyTypes(client, option(number)), [INVALID]);
  }
  t.deepEqual(await replyTypes(client, option(3, Buffer.alloc(4))), [INVALID]);
  t.deepEqual(await replyTypes(client, option(9, metaData('disk0', []))), [INVALID]);
  await stillWorks(t, client);
});

test('LIST, INFO and GO answer with what there is', async (t) => {
  const { client } = await greeted(t);
  t.deepEqual(await replyTypes(client, option(3)), [2, 2, ACK]);
  t.deepEqual(await replyTypes(client, option(6, infoData('other', [0, 1, 3, 77]))), [
    3,
    3,
    3,
    ACK,
  ]);
  await stillWorks(t, client);
});

test('EXPORT_NAME answers without header, with padding unless the client said no', async (t) => {
  for (const flags of [0, 1, 3]) {
    const { client } = await greeted(t, flags);
    client.send(option(1, Buffer.from('disk0')));
    const answer = await client.take(flags === 3 ? 10 : 134);
    t.is(answer.readBigUInt64BE(0), BigInt(MIB));
    client.send(request('write', { data: Buffer.alloc(512, 1) }));
    t.deepEqual(await client.reply(), { error: 0, cookie: 7n });
  }
});

test('an unknown EXPORT_NAME, an unknown client flag and old greetings end the connection', async (t) => {
  const wrong = await greeted(t);
  wrong.client.send(option(1, Buffer.from('nope')));
  await wrong.client.closed;
  const flags = await greeted(t, 7);
  await flags.client.closed;
  // A client of the oldest protocol sends requests at once.
  const old = await greeted(t);
  old.client.send(request('read', { length: 512 }));
  await old.client.closed;
  t.is(old.server.stats.protocolErrors, 1);
});

test('an option that is too long ends the connection before it is received', async (t) => {
  const { client, server } = await greeted(t);
  const header = option(5);
  header.writeUInt32BE(NBD_OPTION_BYTES_MAX + 1, 12);
  client.send(header);
  await client.closed;
  t.is(server.stats.protocolErrors, 1);
});

test('ABORT is acknowledged, then the server hangs up', async (t) => {
  const { client } = await greeted(t);
  t.deepEqual(await replyTypes(client, option(2)), [ACK]);
  await client.closed;
});

test('structured reads come as one chunk, with an error as an error chunk', async (t) => {
  const { client, disk } = await greeted(t);
  disk.bytes.fill(5, 512, 1024);
  t.deepEqual(await replyTypes(client, option(8)), [ACK]);
  t.deepEqual(await replyTypes(client, option(10, metaData('disk0', ['base:allocation']))), [4, 1]);
  t.deepEqual(await replyTypes(client, option(7, infoData('disk0'))), [3, ACK]);
  client.send(request('read', { offset: 512, length: 512 }));
  const head = await client.take(28);
  t.is(head.toString('hex'), `668e33ef00010001${'0000000000000007'}${'00000208'}0000000000000200`);
  t.deepEqual(await client.take(512), Buffer.alloc(512, 5));
  client.send(request('read', { offset: MIB, length: 512 }));
  const error = await client.take(26);
  t.is(error.readUInt16BE(6), 0x8001);
  t.is(error.readUInt32BE(20), EINVAL);
  client.send(request('read', {}));
  t.is((await client.take(20)).readUInt16BE(6), 0);
  client.send(request('blockStatus', { offset: 100, length: 1000 }));
  const status = await client.take(32);
  t.is(status.subarray(16).toString('hex'), `0000000c${'00000001'}${'000003e8'}${'00000000'}`);
});

test('what can not be done is refused and the connection goes on', async (t) => {
  const { socketPath } = await serveDisks(t, { disk0: new MemoryDisk(MIB) });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  const data = Buffer.alloc(512);
  const cases: [string, Buffer, number][] = [
    ['CACHE', request('cache', { length: 512 }), EINVAL],
    ['BLOCK_STATUS without context', request('blockStatus', { length: 512 }), EINVAL],
    ['RESIZE', request(8, { length: 512 }), EINVAL],
    ['FAST_ZERO', request('writeZeroes', { flags: 16, length: 512 }), EINVAL],
    ['a read beyond the end', request('read', { offset: MIB - 1, length: 2 }), EINVAL],
    ['a write beyond the end', request('write', { offset: MIB - 1, data }), ENOSPC],
    ['zeroes beyond the end', request('writeZeroes', { offset: MIB, length: 1 }), ENOSPC],
    ['a trim beyond the end', request('trim', { offset: MIB, length: 1 }), EINVAL],
    ['no length beyond the end', request('read', { offset: MIB + 1 }), EINVAL],
    ['an offset of 2^64 - 1', request('trim', { offset: 2n ** 64n - 1n, length: 1 }), EINVAL],
    ['an unknown flag', request('read', { flags: 0x8000, length: 1 }), EINVAL],
  ];
  for (const [what, bytes, error] of cases) {
    client.send(bytes);
    t.deepEqual(await client.reply(), { error, cookie: 7n }, what);
  }
  client.send(request('writeZeroes', { offset: 1, length: 777, flags: 2 | FUA }));
  t.deepEqual(await client.reply(), { error: 0, cookie: 7n });
});

test('requests of no length and at any alignment are served', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath } = await serveDisks(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  for (const command of ['read', 'write', 'trim', 'writeZeroes'] as const) {
    for (const offset of [0, 1, MIB]) {
      client.send(request(command, { offset }));
      t.deepEqual(await client.reply(), { error: 0, cookie: 7n });
    }
  }
  client.send(request('write', { offset: MIB - 3, data: Buffer.from('end') }));
  t.is((await client.reply()).error, 0);
  client.send(request('read', { offset: MIB - 3, length: 3 }));
  t.is((await client.reply()).error, 0);
  t.is((await client.take(3)).toString(), 'end');
});

test('a client that disappears with requests in flight leaves the server and its data whole', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath, server } = await serveDisks(t, { disk0: disk });
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  disk.gate = () => opened;
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.send(
    request('write', { offset: 0, data: Buffer.alloc(512, 1) }),
    request('write', { offset: 0, data: Buffer.alloc(512, 2) }),
    request('read', { length: 512 }),
  );
  await client.take(16 + 512);
  client.socket.destroy();
  await client.closed;
  open();
  const next = await RawClient.attach(t, socketPath, 'disk0');
  while (server.stats.connections > 1) await new Promise((resolve) => setImmediate(resolve));
  t.is(server.stats.exports['disk0']?.requestsInFlight, 0);
  next.send(request('read', { length: 1 }));
  await next.take(16);
  t.deepEqual(await next.take(1), Buffer.from([2]), 'Both writes were done, in order');
});

test('what one connection has written another reads and flushes', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath } = await serveDisks(t, { disk0: disk });
  const [first, second] = [
    await RawClient.attach(t, socketPath, 'disk0'),
    await RawClient.attach(t, socketPath, 'disk0'),
  ];
  first.send(request('write', { data: Buffer.from('abc') }));
  await first.reply();
  second.send(request('read', { length: 3 }));
  await second.take(16);
  t.is((await second.take(3)).toString(), 'abc');
  second.send(request('flush', { cookie: 8n }));
  t.deepEqual(await second.reply(), { error: 0, cookie: 8n });
  t.is(disk.flushes, 1);
});

test('errors of the disk are told by their NBD number', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath } = await serveDisks(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  for (const [errno, number] of [
    ...(['ENOSPC', 'EDQUOT', 'EFBIG'] as const).map((name) => [name, ENOSPC] as const),
    ...(['EIO', 'ENOTCONN', 'EBADF'] as const).map((name) => [name, 5] as const),
    ...(['EROFS', 'EPERM'] as const).map((name) => [name, 1] as const),
    ['ENOMEM', 12] as const,
  ]) {
    disk.gate = () => Promise.reject(new DiskError('It can not be written', errno));
    client.send(request('write', { data: Buffer.alloc(1) }));
    t.deepEqual(await client.reply(), { error: number, cookie: 7n }, errno);
  }
});

test.serial('FUA and FLUSH are data syncs of the image before the answer', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  const image = await ImageFile.open({ path: file, sizeBytes: MIB });
  t.teardown(() => image.close());
  const { socketPath } = await serveDisks(t, { disk0: image });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  // What the file held when a sync began, and how many syncs have ended.
  const seen: number[] = [];
  let done = 0;
  const real = fs.fdatasync;
  fs.fdatasync = ((fd: number, callback: fs.NoParamCallback) => {
    seen.push(fs.readFileSync(file)[0] ?? -1);
    real(fd, (error) => {
      done += 1;
      callback(error);
    });
  }) as typeof fs.fdatasync;
  t.teardown(() => {
    fs.fdatasync = real;
  });
  const ask = async (bytes: Buffer): Promise<number> => {
    client.send(bytes);
    t.is((await client.reply()).error, 0);
    return done;
  };
  const data = (value: number) => Buffer.alloc(512, value);
  t.is(await ask(request('write', { data: data(1) })), 0);
  t.is(await ask(request('writeZeroes', { offset: 512, length: 512 })), 0);
  t.is(await ask(request('trim', { offset: 512, length: 512 })), 0);
  t.is(await ask(request('write', { data: data(2), flags: FUA })), 1);
  t.is(await ask(request('writeZeroes', { length: 512, flags: FUA })), 2);
  t.is(await ask(request('write', { data: data(3) })), 2);
  t.is(await ask(request('flush', {})), 3);
  t.is(await ask(request('trim', { length: 512, flags: FUA })), 4);
  t.deepEqual(seen, [2, 0, 3, 0]);
});
