/** Sessions over TLS: who gets one, and what the others get. */
import { spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { connect as connectTls } from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import {
  CHANNELS,
  connectSession,
  INSTANCE_BYTES,
  PeerListener,
  PLAIN,
  probePeer,
  type Session,
  type TlsSecurity,
  tlsClientOptions,
} from '../../src/transport/index.js';
import { ATTACH_PROTOCOL } from '../../src/transport/resume-wire.js';
import { type TestCertificate, TestPki } from '../support/test-pki.js';
import { LogCollector, sessionClosed, takeFrames } from '../unit/transport/support.js';

const pki = new TestPki();
const otherPki = new TestPki('Other CA');
test.after.always(() => {
  pki.remove();
  otherPki.remove();
});
const good = pki.issue();

function security(shown: TestCertificate, options: Partial<TlsSecurity> = {}): TlsSecurity {
  const { certificate, key } = shown;
  return {
    kind: 'tls',
    ca: pki.ca.certificate,
    certificate,
    key,
    peerNames: ['localhost'],
    ...options,
  };
}

async function listen(t: ExecutionContext, mine: TlsSecurity) {
  const log = new LogCollector();
  const sessions: Session[] = [];
  const listener = new PeerListener({
    ...{ log, security: mine, instance: Buffer.alloc(INSTANCE_BYTES, 3), resumeWithinMs: 60_000 },
    accept: () => ({ ok: true }),
    onSession: (session) => sessions.push(session),
  });
  const port = await listener.listen({ host: '127.0.0.1', port: 0 });
  t.teardown(() => {
    listener.close();
    for (const session of sessions) session.destroy();
  });
  return { log, port, sessions };
}

function options(port: number, log = new LogCollector()) {
  return { host: '127.0.0.1', port, timeoutMs: 20_000, resumeWithinMs: 60_000, log };
}

test('two hosts with certificates of one CA have a session, and a probe is answered', async (t) => {
  const { log, port, sessions } = await listen(t, security(good));
  const mine = security(pki.issue());
  t.is(await probePeer({ host: '127.0.0.1', port, timeoutMs: 20_000, security: mine }), 'alive');
  const near = await connectSession({ ...options(port), security: mine });
  t.teardown(() => near.destroy());
  const [far] = sessions;
  t.is(near.peerCertificate?.raw.equals(new X509Certificate(good.certificate).raw), true);
  t.is(far?.peerCertificate?.raw.equals(new X509Certificate(mine.certificate).raw), true);
  for (const channel of CHANNELS) {
    near.links[channel].send(0x100, [Buffer.from(channel)]);
    const [frame] = far === undefined ? [] : await takeFrames(far.links[channel], 1);
    t.is(frame?.payload.toString(), channel);
  }
  const over = far === undefined ? undefined : sessionClosed(far);
  near.close();
  t.is((await over)?.kind, 'ended');
  t.deepEqual(log.lines, []);
});

/** Who must not get in, and what is said of it. */
const REFUSED: readonly [string, () => TlsSecurity, RegExp][] = [
  ['of another CA', () => security(otherPki.issue()), /not by our CA/],
  ['with a wrong name', () => security(pki.issue({ names: 'DNS:stranger' })), /for stranger/],
  [
    'that is expired',
    () => security(pki.issue({ until: new Date(Date.now() - 60_000) })),
    /expired/,
  ],
];

for (const [who, shown, reason] of REFUSED) {
  test(`a peer with a certificate ${who} gets nothing, with one log line`, async (t) => {
    const { log, port, sessions } = await listen(t, security(good));
    // It would take anybody itself.
    const mine = { ...shown(), peerNames: ['*'] };
    const socket = connectTls({
      ...{ host: '127.0.0.1', port, ...tlsClientOptions(mine, ATTACH_PROTOCOL) },
    });
    let got = 0;
    socket.on('data', (chunk: Buffer) => {
      got += chunk.length;
    });
    socket.on('error', () => {});
    await once(socket, 'close');
    await log.reached(1);
    t.is(got, 0);
    t.is(log.lines.length, 1);
    t.regex(String(log.lines[0]?.fields['reason']), reason);
    t.is(sessions.length, 0);
  });

  test(`a listener with a certificate ${who} is not spoken to`, async (t) => {
    const { port } = await listen(t, { ...shown(), peerNames: ['*'] });
    const error = await t.throwsAsync(
      connectSession({ ...options(port), security: security(good) }),
    );
    t.regex(String((error as Error).cause), reason);
    const probe = { host: '127.0.0.1', port, timeoutMs: 300, security: security(good) };
    t.is(await probePeer(probe), 'silent');
  });
}

test('where nobody listens a secured connection is refused like any other', async (t) => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  const mine = { security: security(good) };
  await t.throwsAsync(connectSession({ ...options(port), ...mine }), {
    code: 'COLO_E_LINK_REFUSED',
  });
  const probe = { host: '127.0.0.1', port, timeoutMs: 20_000 };
  t.is(await probePeer({ ...probe, ...mine }), 'refused');
});

test('who only knows the name of a session can not take its place', async (t) => {
  const { log, port, sessions } = await listen(t, security(good));
  const near = await connectSession({ ...options(port), security: security(good) });
  t.teardown(() => near.destroy());
  const protocol = `colo/${near.id}/control`;
  const strangers = [security(otherPki.issue()), security(pki.issue({ names: 'DNS:stranger' }))];
  for (const [n, stranger] of strangers.entries()) {
    const socket = connectTls({
      ...{
        host: '127.0.0.1',
        port,
        ...tlsClientOptions({ ...stranger, peerNames: ['*'] }, protocol),
      },
      rejectUnauthorized: false,
    });
    socket.on('error', () => {});
    socket.resume();
    await once(socket, 'close');
    await log.reached(n + 1);
    t.regex(String(log.lines[n]?.fields['reason']), /certificate is/);
  }
  const [far] = sessions;
  near.links.control.send(0x100, [Buffer.from('still here')]);
  const [frame] = far === undefined ? [] : await takeFrames(far.links.control, 1);
  t.is(frame?.payload.toString(), 'still here');
  t.false(near.interrupted);
});

test('a peer that speaks no TLS gets nothing, with one log line', async (t) => {
  const { log, port, sessions } = await listen(t, security(good));
  const probe = probePeer({ host: '127.0.0.1', port, timeoutMs: 300, security: PLAIN });
  t.is(await probe, 'silent');
  t.true(log.lines.length > 0);
  for (const { fields } of log.lines) t.regex(String(fields['reason']), /speaks no TLS/);
  t.is(sessions.length, 0);
});

test('a connection that says nothing is dropped at its deadline', async (t) => {
  const log = new LogCollector();
  const listener = new PeerListener({
    ...{ log, security: security(good), instance: Buffer.alloc(INSTANCE_BYTES, 3) },
    ...{ accept: () => ({ ok: true }), onSession: () => t.fail(), attachDeadlineMs: 100 },
  });
  const port = await listener.listen({ host: '127.0.0.1', port: 0 });
  t.teardown(() => listener.close());
  const socket = net.connect(port, '127.0.0.1');
  await once(socket, 'close');
  t.is(log.lines.length, 1);
  t.regex(String(log.lines[0]?.fields['reason']), /No TLS hello/);
});

/** What openssl prints, until it ends. */
async function openssl(port: number, args: readonly string[]): Promise<string> {
  const child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, ...args]);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
  }
  await once(child, 'close');
  return text;
}

test('openssl s_client sees TLS 1.3 only, and is refused without a certificate', async (t) => {
  const { log, port } = await listen(t, security(good));
  const text = await openssl(port, ['-alpn', ATTACH_PROTOCOL]);
  t.regex(text, /TLSv1\.3/);
  await log.reached(1);
  t.regex(String(log.lines[0]?.fields['reason']), /no certificate/);
  const old = await openssl(port, ['-tls1_2', '-alpn', ATTACH_PROTOCOL]);
  t.regex(old, /alert protocol version|Cipher is \(NONE\)/);
  await log.reached(2);
  t.regex(String(log.lines[1]?.fields['reason']), /no TLS 1\.3/);
  t.is(log.lines.length, 2);
});
