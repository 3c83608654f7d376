/** The hello of Node's own TLS: read whole, at any split, cut and spoilt. */
import { once } from 'node:events';
import net from 'node:net';
import { connect } from 'node:tls';
import test from 'ava';
import fc from 'fast-check';
import { CLIENT_HELLO_MAX_BYTES, readClientHello } from '../../../src/transport/client-hello.js';

/** What a client says first. */
async function helloOf(protocols: readonly string[]): Promise<Buffer> {
  const server = net.createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const client = connect({ port, host: '127.0.0.1', ALPNProtocols: [...protocols] });
  client.on('error', () => {});
  const [socket] = (await once(server, 'connection')) as [net.Socket];
  let bytes: Buffer = Buffer.alloc(0);
  while (bytes.length < 5 || bytes.length < 5 + bytes.readUInt16BE(3)) {
    bytes = Buffer.concat([bytes, (await once(socket, 'data'))[0] as Buffer]);
  }
  client.destroy();
  socket.destroy();
  server.close();
  return bytes;
}

/** The same handshake message in records of `length` bytes. */
function fragmented(hello: Buffer, length: number): Buffer {
  const message = hello.subarray(5);
  const records: Buffer[] = [];
  for (let at = 0; at < message.length; at += length) {
    const part = message.subarray(at, at + length);
    records.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 0xff]), part);
  }
  return Buffer.concat(records);
}

test('the protocol is found, at any split, also over several records', async (t) => {
  const hello = await helloOf(['colo/00/ram']);
  t.deepEqual(readClientHello(hello), { kind: 'hello', alpn: 'colo/00/ram' });
  for (const bytes of [hello, fragmented(hello, 100), fragmented(hello, 1)]) {
    t.deepEqual(readClientHello(bytes), { kind: 'hello', alpn: 'colo/00/ram' });
    for (let cut = 0; cut < bytes.length; cut += 1) {
      t.deepEqual(readClientHello(bytes.subarray(0, cut)), { kind: 'more' });
    }
  }
  const behind = Buffer.concat([hello, Buffer.from([20, 3, 3, 0, 1, 1])]);
  t.is(readClientHello(behind).kind, 'hello');
});

test('a hello without a protocol, or with several, has none', async (t) => {
  for (const protocols of [[], ['a', 'b']]) {
    t.deepEqual(readClientHello(await helloOf(protocols)), { kind: 'hello', alpn: undefined });
  }
});

test('what is no hello has no protocol, and nothing makes it wait for more than the bound', (t) => {
  for (const text of [
    'GET / HTTP/1.1\r\n',
    'COLO',
    '\x16\x02\x01\x00\x05abcde',
    '\x16\x03\x01\x00\x00',
  ]) {
    const bytes = Buffer.from(text, 'latin1');
    t.deepEqual(readClientHello(bytes), { kind: 'hello', alpn: undefined });
  }
  const long = Buffer.alloc(CLIENT_HELLO_MAX_BYTES);
  Buffer.from([22, 3, 1, 0x40, 0x00, 1, 0, 0x3f, 0xfb]).copy(long);
  t.is(readClientHello(long.subarray(0, -1)).kind, 'more');
  t.is(readClientHello(long).kind, 'hello');
});

test('a hello that is spoilt anywhere is read or not, and never throws', async (t) => {
  const hello = await helloOf(['colo/00/ram']);
  fc.assert(
    fc.property(
      fc.nat(hello.length - 1),
      fc.nat(255),
      fc.nat(hello.length),
      (at, value, length) => {
        const bytes = Buffer.from(hello);
        bytes.writeUInt8(value, at);
        const { kind } = readClientHello(bytes.subarray(0, length));
        return kind === 'hello' || kind === 'more';
      },
    ),
    { numRuns: 5000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      readClientHello(Buffer.from(bytes));
    }),
  );
  t.pass();
});
