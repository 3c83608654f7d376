import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import test from 'ava';
import { NbdServer } from '../../../src/blockrep/index.js';
import {
  NBD_BYTES_IN_FLIGHT_MAX,
  NBD_CONNECTIONS_MAX,
  NBD_REQUESTS_IN_FLIGHT_MAX,
} from '../../../src/blockrep/limits.js';
import {
  clientFlags,
  collectingLog,
  MemoryDisk,
  RawClient,
  request,
  serveDisks as serve,
  serveImage,
  temporaryDirectory,
} from './support.js';

const MIB = 1 << 20;

/** Waits until `condition` holds; the test's own time-out is the deadline. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

test('random bytes cost that connection one log line and nobody else anything', async (t) => {
  const { socketPath, server, log } = await serve(t, { disk0: new MemoryDisk(MIB) });
  const good = await RawClient.attach(t, socketPath, 'disk0');
  const before = log.lines.length;
  const bad = await RawClient.connect(t, socketPath);
  bad.send(Buffer.alloc(65536, 0xff));
  await bad.closed;
  const late = await RawClient.attach(t, socketPath, 'disk0');
  late.send(Buffer.alloc(65536, 0xff));
  await late.closed;
  const warnings = log.lines.slice(before).filter((line) => line.startsWith('warn'));
  t.is(warnings.length, 2, warnings.join('\n'));
  t.is(server.stats.protocolErrors, 2);
  good.send(request('write', { data: Buffer.from('still here') }));
  t.deepEqual(await good.reply(), { error: 0, cookie: 7n });
});

test('overlapping writes in flight keep their order, others overtake', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath } = await serve(t, { disk0: disk });
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  let first = true;
  disk.gate = (offset) => {
    if (offset !== 0 || !first) return Promise.resolve();
    first = false;
    return opened;
  };
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.send(
    request('write', { cookie: 1n, offset: 0, data: Buffer.alloc(4096, 1) }),
    request('write', { cookie: 2n, offset: 512, data: Buffer.alloc(512, 2) }),
    request('writeZeroes', { cookie: 3n, offset: 600, length: 10 }),
    request('write', { cookie: 4n, offset: 8192, data: Buffer.alloc(512, 4) }),
  );
  t.is((await client.reply()).cookie, 4n);
  open();
  t.deepEqual(
    [await client.reply(), await client.reply(), await client.reply()].map((each) => each.cookie),
    [1n, 2n, 3n],
  );
  t.deepEqual([disk.bytes[511], disk.bytes[512], disk.bytes[600], disk.bytes[610]], [1, 2, 0, 2]);
});

test('at the bound of requests in flight the socket is not read any more', async (t) => {
  const disk = new MemoryDisk(MIB);
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  disk.gate = () => opened;
  const { socketPath, server } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  const count = NBD_REQUESTS_IN_FLIGHT_MAX * 4;
  for (let i = 0; i < count; i++) {
    client.send(request('write', { cookie: BigInt(i), offset: i * 512, data: Buffer.alloc(512) }));
  }
  const stats = () => server.stats.exports['disk0'];
  await until(() => stats()?.requestsInFlight === NBD_REQUESTS_IN_FLIGHT_MAX);
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
  t.is(stats()?.requests, NBD_REQUESTS_IN_FLIGHT_MAX);
  open();
  const cookies = new Set<bigint>();
  for (let i = 0; i < count; i++) cookies.add((await client.reply()).cookie);
  t.is(cookies.size, count);
});

test('a client that asks for reads and takes no answer is bounded', async (t) => {
  const disk = new MemoryDisk(32 * MIB);
  const { socketPath, server } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.socket.pause();
  for (let i = 0; i < 64; i++) client.send(request('read', { length: 32 * MIB }));
  await until(() => disk.reads >= 2);
  for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
  // In flight or waiting in the socket: at most the two bounds and one request beyond each.
  t.true(disk.reads <= 2 * (NBD_BYTES_IN_FLIGHT_MAX / (32 * MIB)) + 2, `${disk.reads} reads`);
  client.socket.destroy();
  await until(() => server.stats.connections === 0);
  t.is(server.stats.exports['disk0']?.requestsInFlight, 0);
});

test('errors of the layer become NBD errors and one log line', async (t) => {
  const disk = new MemoryDisk(MIB);
  disk.gate = async (offset) => {
    throw Object.assign(new Error('full'), { code: offset === 0 ? 'ENOSPC' : 'EWEIRD' });
  };
  const { socketPath, log } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.send(request('write', { cookie: 1n, data: Buffer.alloc(512) }));
  t.deepEqual(await client.reply(), { error: 28, cookie: 1n });
  client.send(request('write', { cookie: 2n, offset: 512, data: Buffer.alloc(512) }));
  t.deepEqual(await client.reply(), { error: 5, cookie: 2n });
  t.is(log.lines.filter((line) => line.startsWith('error')).length, 1);
});

test('FUA and FLUSH reach the layer', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.send(request('flush', {}), request('trim', { flags: 1, length: 512 }));
  await client.take(32);
  t.is(disk.flushes, 2);
});

test('requests of no length are answered and touch nothing', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.send(request('read', {}), request('write', {}), request('trim', {}));
  for (let i = 0; i < 3; i++) t.is((await client.reply()).error, 0);
  t.is(disk.reads, 0);
});

test('DISC closes after the requests in flight are answered', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.send(request('write', { data: Buffer.alloc(512, 9) }), request('disconnect', {}));
  t.is((await client.reply()).error, 0);
  await client.closed;
  t.is(disk.bytes[0], 9);
});

test('stop answers what is in flight, closes the clients and removes the socket', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath, server } = await serve(t, { disk0: disk });
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  disk.gate = () => opened;
  const client = await RawClient.attach(t, socketPath, 'disk0');
  client.send(request('write', { data: Buffer.alloc(512, 9) }));
  await until(() => server.stats.exports['disk0']?.requestsInFlight === 1);
  const stopped = server.stop();
  open();
  t.is((await client.reply()).error, 0);
  await Promise.all([stopped, client.closed]);
  t.false(fs.existsSync(socketPath));
  await t.notThrowsAsync(server.stop());
});

test('more connections than the bound are closed at once', async (t) => {
  const { socketPath, server } = await serve(t, { disk0: new MemoryDisk(MIB) });
  for (let i = 0; i < NBD_CONNECTIONS_MAX; i++) await RawClient.attach(t, socketPath, 'disk0');
  const extra = await RawClient.connect(t, socketPath);
  await extra.closed;
  t.is(server.stats.connectionsRefused, 1);
  t.is(server.stats.connections, NBD_CONNECTIONS_MAX);
});

test('a left-over socket is replaced, one in use is not', async (t) => {
  const directory = temporaryDirectory(t);
  const socketPath = path.join(directory, 'nbd.sock');
  const disk = new MemoryDisk(MIB);
  const make = () =>
    new NbdServer({ socketPath, exports: new Map([['d', disk]]), log: collectingLog() });
  const holder = net.createServer();
  await new Promise<void>((resolve) => {
    holder.listen(socketPath, resolve);
  });
  // Closing a listening socket would unlink it: keep the name through a second link.
  fs.linkSync(socketPath, path.join(directory, 'left-over'));
  await t.throwsAsync(make().start(), { code: 'COLO_E_NBD_SOCKET', message: /in use/ });
  await new Promise((resolve) => {
    holder.close(resolve);
  });
  fs.renameSync(path.join(directory, 'left-over'), socketPath);
  const server = make();
  await server.start();
  t.teardown(() => server.stop());
  const client = await RawClient.attach(t, socketPath, 'd');
  client.send(request('flush', {}));
  t.is((await client.reply()).error, 0);
});

test('a greeting in single bytes is understood', async (t) => {
  const { socketPath } = await serve(t, { disk0: new MemoryDisk(MIB) });
  const client = await RawClient.connect(t, socketPath);
  await client.take(18);
  for (const byte of clientFlags()) client.send(Buffer.from([byte]));
  client.send(Buffer.from('IHAVEOPT'), Buffer.from([0, 0, 0, 2, 0, 0, 0, 0]));
  await client.take(20);
  await client.closed;
  t.pass();
});

test('large reads from the page cache are what is in the image, whatever the client does', async (t) => {
  const sizeBytes = 8 * MIB;
  const { socketPath, image, server } = await serveImage(t, sizeBytes);
  const content = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 4) content.writeUInt32LE((at * 40503) % 0xffff_fffb, at);
  // The last MiB stays a hole, of which nothing is cached.
  content.fill(0, 7 * MIB);
  await image.write(0, content.subarray(0, 7 * MIB), false);
  const client = await RawClient.attach(t, socketPath, 'disk0');
  // More than the socket takes at once, with small replies in between, to a client that is slow.
  client.socket.pause();
  const reads = Array.from({ length: 40 }, (_, i) => {
    const offset = (i * 300_007) % (7 * MIB);
    return { cookie: BigInt(i), offset, length: i % 3 === 0 ? 512 : MIB - i };
  });
  for (const read of reads) client.send(request('read', read));
  await until(() => (server.stats.exports['disk0']?.requests ?? 0) >= 20);
  client.socket.resume();
  const left = new Map(reads.map((read) => [read.cookie, read]));
  while (left.size > 0) {
    const { error, cookie } = await client.reply();
    const read = left.get(cookie);
    if (error !== 0 || read === undefined) return t.fail(`${cookie}: ${error}`);
    left.delete(cookie);
    const { offset, length } = read;
    const bytes = await client.take(length);
    t.true(bytes.equals(content.subarray(offset, offset + length)), `${cookie}`);
  }
});

test('a client that goes while it is sent a large read costs nobody anything', async (t) => {
  const { socketPath, image, server } = await serveImage(t, 32 * MIB);
  await image.write(0, Buffer.alloc(32 * MIB, 5), false);
  for (let i = 0; i < 5; i++) {
    const client = await RawClient.attach(t, socketPath, 'disk0');
    client.socket.pause();
    for (let k = 0; k < 8; k++) client.send(request('read', { length: 4 * MIB }));
    await until(() => (server.stats.exports['disk0']?.requests ?? 0) > i * 8);
    client.socket.destroy();
    await until(() => server.stats.connections === 0);
  }
  const good = await RawClient.attach(t, socketPath, 'disk0');
  good.send(request('read', { length: 4 * MIB }));
  t.is((await good.reply()).error, 0);
  t.true((await good.take(4 * MIB)).equals(Buffer.alloc(4 * MIB, 5)));
  t.is(server.stats.exports['disk0']?.requestsInFlight, 0);
});

/** The client sends a write of 512 KiB up to `sent` bytes of its payload; the rest is given back. */
function beginWrite(client: RawClient, { sent, cookie }: { sent: number; cookie: bigint }): Buffer {
  const whole = request('write', { cookie, data: Buffer.alloc(MIB / 2, 9) });
  client.send(whole.subarray(0, whole.length - MIB / 2 + sent));
  return whole.subarray(whole.length - MIB / 2 + sent);
}

test('a large write is begun before all of it is there, and answered once', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath, server } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  const rest = beginWrite(client, { sent: MIB / 4, cookie: 1n });
  await until(() => disk.bytes[0] === 9);
  t.is(disk.bytes[MIB / 4], 0);
  client.send(rest, request('flush', { cookie: 2n }));
  t.deepEqual(await client.reply(), { error: 0, cookie: 1n });
  t.deepEqual(await client.reply(), { error: 0, cookie: 2n });
  t.true(disk.bytes.subarray(0, MIB / 2).every((byte) => byte === 9));
  const { requests, bytesWritten, requestsInFlight, bytesInFlight } =
    server.stats.exports['disk0'] ?? {};
  t.deepEqual([requests, bytesWritten, requestsInFlight, bytesInFlight], [2, MIB / 2, 0, 0]);
});

test('a large write of which a part fails fails, and only when no part is under way', async (t) => {
  const disk = new MemoryDisk(MIB);
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  disk.gate = async (offset) => {
    if (offset === 0) await opened;
    if (offset === 0) throw Object.assign(new Error('full'), { code: 'ENOSPC' });
  };
  const { socketPath, server } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  const rest = beginWrite(client, { sent: MIB / 4, cookie: 1n });
  await until(() => server.stats.exports['disk0']?.requestsInFlight === 1);
  client.send(rest, request('write', { cookie: 2n, offset: MIB / 2, data: Buffer.alloc(512, 3) }));
  t.deepEqual(await client.reply(), { error: 0, cookie: 2n });
  open();
  t.deepEqual(await client.reply(), { error: 28, cookie: 1n });
});

test('a client that goes in the middle of a large write leaves nothing under way', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath, server } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  beginWrite(client, { sent: MIB / 4, cookie: 1n });
  await until(() => disk.bytes[0] === 9);
  client.socket.destroy();
  await until(() => server.stats.connections === 0);
  t.is(server.stats.exports['disk0']?.requestsInFlight, 0);
  t.is(server.stats.exports['disk0']?.bytesInFlight, 0);
});

test('stop does not wait for the rest of a large write, nor answer it', async (t) => {
  const disk = new MemoryDisk(MIB);
  const { socketPath, server } = await serve(t, { disk0: disk });
  const client = await RawClient.attach(t, socketPath, 'disk0');
  beginWrite(client, { sent: MIB / 4, cookie: 1n });
  await until(() => disk.bytes[0] === 9);
  await server.stop();
  await t.throwsAsync(client.reply(), { message: 'Closed after 0 of 16 bytes' });
});
