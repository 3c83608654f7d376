/**
 * Mutual TLS 1.3 over loopback, with each kind of peer that must get nothing, at both ends; with
 * Node's own TLS and with `openssl s_client`.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect as connectPlain, createServer } from 'node:net';
import {
  type ConnectionOptions,
  connect,
  createServer as createTlsServer,
  TLSSocket,
} from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import {
  ANY_PEER_NAME,
  describeHandshakeFailure,
  refusalOfPeer,
  type TlsSecurity,
  tlsClientOptions,
  tlsServerOptions,
} from '../../src/transport/index.js';
import { type TestCertificate, TestPki } from '../support/test-pki.js';

const ALPN = 'colo-test';
const DAY_MS = 24 * 3600 * 1000;
const DEADLINE_MS = 30_000;

const pki = new TestPki();
const otherPki = new TestPki('Other CA');
test.after.always(() => {
  pki.remove();
  otherPki.remove();
});

const good = pki.issue();

function security(shown: TestCertificate, options: Partial<TlsSecurity> = {}): TlsSecurity {
  const { certificate, key } = shown;
  const peerNames = ['localhost'];
  return { kind: 'tls', ca: pki.ca.certificate, certificate, key, peerNames, ...options };
}

/** What a listening end made of one connection: the peer's bytes, or why it was refused. */
interface Listening {
  readonly port: number;
  /** One for each connection, in order: `accepted`, or the refusal. */
  next(): Promise<string>;
  close(): void;
}

async function listen(t: ExecutionContext, mine: TlsSecurity): Promise<Listening> {
  const verdicts: string[] = [];
  const server = createTlsServer(tlsServerOptions(mine, ALPN), (socket) => {
    socket.on('error', () => {});
    const refusal = refusalOfPeer(socket, mine);
    if (refusal === undefined) socket.end('welcome');
    else socket.destroy();
    verdicts.push(refusal ?? 'accepted');
    server.emit('verdict');
  });
  server.on('tlsClientError', (error, socket) => {
    verdicts.push(describeHandshakeFailure(error, socket));
    // A handshake that takes too long is told, and goes on.
    socket.destroy();
    server.emit('verdict');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  return {
    port: (server.address() as AddressInfo).port,
    async next() {
      if (verdicts.length === 0) {
        await once(server, 'verdict', { signal: AbortSignal.timeout(DEADLINE_MS) });
      }
      return verdicts.shift() as string;
    },
    close: () => server.close(),
  };
}

/** Connects; resolves with the bytes got, and what was wrong in our end's view. */
async function dial(
  port: number,
  options: ConnectionOptions,
  mine?: TlsSecurity,
): Promise<{ got: string; refusal: string | undefined; reused: boolean }> {
  const socket = connect({ host: '127.0.0.1', port, ...options });
  let refusal: string | undefined;
  let reused = false;
  socket.on('secureConnect', () => {
    reused = socket.isSessionReused();
    if (mine !== undefined) refusal = refusalOfPeer(socket, mine);
  });
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.on('error', (error) => {
    refusal ??= describeHandshakeFailure(error, socket);
  });
  socket.setTimeout(DEADLINE_MS, () => socket.destroy(new Error('timed out')));
  await once(socket, 'close').catch(() => {});
  return { got: Buffer.concat(chunks).toString(), refusal, reused };
}

test('two hosts of one CA meet, by TLS 1.3 and nothing else', async (t) => {
  const server = await listen(t, security(good));
  const mine = security(pki.issue());
  const socket = connect({ host: '127.0.0.1', port: server.port, ...tlsClientOptions(mine, ALPN) });
  socket.resume();
  await once(socket, 'secureConnect');
  t.is(socket.getProtocol(), 'TLSv1.3');
  t.is(socket.alpnProtocol, ALPN);
  t.is(refusalOfPeer(socket, mine), undefined);
  await once(socket, 'close');
  t.is(await server.next(), 'accepted');
});

const badPeers: readonly (readonly [string, () => TestCertificate, RegExp])[] = [
  [
    'a wrong name',
    () => pki.issue({ names: 'DNS:elsewhere' }),
    /for elsewhere, expected localhost/,
  ],
  ['no name', () => pki.issue({ names: '' }), /for no name, expected localhost/],
  ['a wildcard', () => pki.issue({ names: 'DNS:*.localhost' }), /expected localhost/],
  ['an expired one', () => pki.issue({ until: new Date(Date.now() - 60_000) }), /has expired/],
  [
    'one not yet valid',
    () => pki.issue({ from: new Date(Date.now() + DAY_MS / 2) }),
    /not valid (?:yet|before)/,
  ],
  ['one of another CA', () => otherPki.issue(), /not by our CA/],
  ['a self-signed one', () => pki.selfSigned(), /signed by itself|not by our CA/],
  ['one for clients only', () => pki.issue({ uses: 'clientAuth' }), /another use/],
  ['one for servers only', () => pki.issue({ uses: 'serverAuth' }), /another use/],
  ['one for no use', () => pki.issue({ uses: '' }), /another use/],
  ['one for mail', () => pki.issue({ uses: 'emailProtection' }), /another use/],
  ["a CA's", () => pki.issue({ isCa: true }), /a CA's certificate/],
  ["the CA's own", () => pki.ca, /CA/],
];

for (const [what, make, expected] of badPeers) {
  test(`a connecting peer with ${what} gets nothing`, async (t) => {
    const server = await listen(t, security(good));
    const theirs = make();
    const bad = security(theirs, { peerNames: [ANY_PEER_NAME] });
    const { got } = await dial(server.port, tlsClientOptions(bad, ALPN));
    t.is(got, '');
    t.regex(await server.next(), expected);
    // The listener is there for the next one.
    const fine = await dial(server.port, tlsClientOptions(security(good), ALPN));
    t.is(fine.got, 'welcome');
  });

  test(`a listening peer with ${what} gets nothing`, async (t) => {
    const theirs = make();
    const server = await listen(t, security(theirs, { peerNames: [ANY_PEER_NAME] }));
    const mine = security(good);
    const { refusal } = await dial(server.port, tlsClientOptions(mine, ALPN), mine);
    t.regex(refusal ?? 'nothing', expected);
  });
}

/** The refusal by a TLSSocket around a plain one, which no tls.Server looks after. */
async function refusalByWrapper(t: ExecutionContext, theirs: ConnectionOptions): Promise<string> {
  const mine = security(good);
  const server = createServer((plain) => {
    const socket = new TLSSocket(plain, { isServer: true, ...tlsServerOptions(mine, ALPN) });
    socket.once('secure', () => {
      server.emit('verdict', refusalOfPeer(socket, mine) ?? 'accepted');
      socket.destroy();
    });
    socket.on('error', (error) => {
      server.emit('verdict', describeHandshakeFailure(error, socket));
      socket.destroy();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  const verdict = once(server, 'verdict', { signal: AbortSignal.timeout(DEADLINE_MS) });
  await dial((server.address() as AddressInfo).port, theirs);
  return (await verdict)[0] as string;
}

test('a TLSSocket around a plain socket refuses the same peers', async (t) => {
  const fine = tlsClientOptions(security(pki.issue()), ALPN);
  t.is(await refusalByWrapper(t, fine), 'accepted');
  for (const [what, make, expected] of badPeers) {
    const bad = security(make(), { peerNames: [ANY_PEER_NAME] });
    t.regex(await refusalByWrapper(t, tlsClientOptions(bad, ALPN)), expected, what);
  }
  // OpenSSL's words: its verdict counts, although nobody has acted on it.
  const expired = security(pki.issue({ until: new Date(Date.now() - 60_000) }));
  const verdict = await refusalByWrapper(t, tlsClientOptions(expired, ALPN));
  t.is(verdict, 'its certificate has expired');
  const { cert: _cert, key: _key, ...bare } = fine;
  t.is(await refusalByWrapper(t, bare), 'it showed no certificate');
  const { ALPNProtocols: _none, ...silent } = fine;
  t.is(await refusalByWrapper(t, silent), 'it named no protocol of ours (ALPN)');
  const old = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2', ciphers: 'DEFAULT' } as const;
  t.is(await refusalByWrapper(t, { ...fine, ...old }), 'it speaks no TLS 1.3');
});

test('a peer without a certificate gets nothing', async (t) => {
  const server = await listen(t, security(good));
  const { cert: _cert, key: _key, ...bare } = tlsClientOptions(security(good), ALPN);
  const { got } = await dial(server.port, bare);
  t.is(got, '');
  t.is(await server.next(), 'it showed no certificate');
});

test('a peer that offers TLS 1.2 at most gets nothing, at both ends', async (t) => {
  const server = await listen(t, security(good));
  const old = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2', ciphers: 'DEFAULT' } as const;
  const { got } = await dial(server.port, { ...tlsClientOptions(security(good), ALPN), ...old });
  t.is(got, '');
  t.is(await server.next(), 'it speaks no TLS 1.3');

  const oldServer = createTlsServer({ ...tlsServerOptions(security(good), ALPN), ...old });
  oldServer.on('tlsClientError', () => {});
  oldServer.listen(0, '127.0.0.1');
  await once(oldServer, 'listening');
  t.teardown(() => void oldServer.close());
  const { port } = oldServer.address() as AddressInfo;
  const { refusal } = await dial(port, tlsClientOptions(security(good), ALPN));
  t.is(refusal, 'it speaks no TLS 1.3');
});

test('a peer that names no protocol of ours gets nothing', async (t) => {
  const server = await listen(t, security(good));
  const options = tlsClientOptions(security(good), ALPN);
  t.is((await dial(server.port, { ...options, ALPNProtocols: ['other'] })).got, '');
  t.is(await server.next(), 'it named no protocol of ours (ALPN)');
  const { ALPNProtocols: _none, ...without } = options;
  t.is((await dial(server.port, without)).got, '');
  t.is(await server.next(), 'it named no protocol of ours (ALPN)');
});

test('bytes that are no TLS get nothing', async (t) => {
  const server = await listen(t, security(good));
  for (const [bytes, expected] of [
    [Buffer.from('COLO\x01\x02\x03 this is a frame, not a hello'), /no TLS/],
    [Buffer.from('GET / HTTP/1.1\r\n\r\n'), /HTTP/],
  ] as const) {
    const socket = connectPlain(server.port, '127.0.0.1');
    socket.on('error', () => {});
    socket.write(bytes);
    let got = '';
    socket.on('data', (chunk) => {
      got += chunk.toString('latin1');
    });
    await once(socket, 'close');
    // At most an alert: two bytes behind a record header of five.
    t.true(got.length <= 7, `${got.length} bytes`);
    t.regex(await server.next(), expected);
  }
});

test('who connects and says nothing is dropped', async (t) => {
  const server = await listen(t, security(good));
  const socket = connectPlain(server.port, '127.0.0.1');
  socket.on('error', () => {});
  socket.resume();
  await once(socket, 'close');
  t.is(await server.next(), 'it did not finish the handshake in time');
});

test('a listener that speaks no TLS is noticed', async (t) => {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end('COLO\x01\x02\x03 this is a frame, not a hello');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  const { port } = server.address() as AddressInfo;
  const { refusal, got } = await dial(port, tlsClientOptions(security(good), ALPN));
  t.is(got, '');
  t.is(refusal, 'it speaks no TLS');
});

test('a session is not resumed: each connection proves anew who it is', async (t) => {
  const server = await listen(t, security(good));
  const options = tlsClientOptions(security(good), ALPN);
  const sessions: Buffer[] = [];
  const first = connect({ host: '127.0.0.1', port: server.port, ...options });
  first.on('session', (session) => sessions.push(session));
  first.resume();
  await once(first, 'close');
  t.is(await server.next(), 'accepted');
  t.log(`${sessions.length} sessions were offered`);
  for (const session of sessions) {
    const again = await dial(server.port, { ...options, session });
    t.is(again.got, 'welcome');
    t.false(again.reused);
  }
});

test('two CAs in one file: both count, while one takes the place of the other', async (t) => {
  const ca = `${otherPki.ca.certificate}\nsome words\n${pki.ca.certificate}`;
  const server = await listen(t, security(good, { ca }));
  for (const theirs of [pki.issue(), otherPki.issue()]) {
    const { got } = await dial(server.port, tlsClientOptions(security(theirs), ALPN));
    t.is(got, 'welcome');
    t.is(await server.next(), 'accepted');
  }
});

test('names: an address, any name, nobody', async (t) => {
  const other = pki.issue({ names: 'IP:10.9.8.7,IP:fd00::7,DNS:Host-B.example' });
  const verdicts = async (peerNames: readonly string[]): Promise<string> => {
    const server = await listen(t, security(good, { peerNames }));
    await dial(server.port, tlsClientOptions(security(other), ALPN));
    const verdict = await server.next();
    server.close();
    return verdict;
  };
  for (const name of ['10.9.8.7', 'fd00:0::7', 'host-b.example', ANY_PEER_NAME]) {
    t.is(await verdicts(['nonsense', name]), 'accepted', name);
  }
  const names = '10.9.8.7, FD00:0:0:0:0:0:0:7, Host-B.example';
  t.is(await verdicts([]), `its certificate is for ${names}, expected nobody`);
  t.is(await verdicts(['leaf1']), `its certificate is for ${names}, expected leaf1`);
});

/** Ends by itself: its input is closed. */
function openssl(...args: readonly string[]): ChildProcessWithoutNullStreams {
  const child = spawn('openssl', args, { stdio: 'pipe', timeout: DEADLINE_MS });
  child.stdin.end();
  return child;
}

async function outputOf(child: ChildProcessWithoutNullStreams): Promise<string> {
  let text = '';
  child.stdout.on('data', (chunk) => {
    text += chunk;
  });
  child.stderr.on('data', (chunk) => {
    text += chunk;
  });
  await once(child, 'close');
  return text;
}

test('openssl s_client sees TLS 1.3, our suites and no other version', async (t) => {
  const server = await listen(t, security(good));
  const { cert, key } = pki.files('client', pki.issue());
  const ca = pki.files('ca', pki.ca).cert;
  const to = ['s_client', '-connect', `127.0.0.1:${server.port}`, '-alpn', ALPN, '-CAfile', ca];
  to.push('-ign_eof');
  const mine = ['-cert', cert, '-key', key];
  const seen = await outputOf(openssl(...to, ...mine));
  t.regex(seen, /New, TLSv1\.3, Cipher is TLS_AES_128_GCM_SHA256/);
  t.regex(seen, /Verification: OK/);
  t.regex(seen, /welcome/);
  t.is(await server.next(), 'accepted');

  for (const version of ['-tls1', '-tls1_1', '-tls1_2']) {
    const refused = await outputOf(openssl(...to, ...mine, version, '-cipher', 'ALL:@SECLEVEL=0'));
    t.notRegex(refused, /welcome/, version);
    t.regex(refused, /Cipher is \(NONE\)/, version);
    t.is(await server.next(), 'it speaks no TLS 1.3', version);
  }

  const bare = await outputOf(openssl(...to));
  t.notRegex(bare, /welcome/);
  t.is(await server.next(), 'it showed no certificate');

  const weak = await outputOf(openssl(...to, ...mine, '-ciphersuites', 'TLS_AES_128_CCM_8_SHA256'));
  t.notRegex(weak, /welcome/);
  t.is(await server.next(), 'it knows no cipher suite of ours');
});
