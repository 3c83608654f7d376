/**
 * TLS around a stream, in whichever thread drives it. The connection is TLS from its first byte.
 *
 * A secured socket says nothing before its peer has proved who it is, and gives nothing of what the
 * peer says: until then it is corked, and one whose peer is refused is destroyed with the reason.
 */
import type { Socket } from 'node:net';
import { connect, TLSSocket } from 'node:tls';
import { ProtocolError } from '../lib/index.js';
import { CLIENT_HELLO_MAX_BYTES, readClientHello } from './client-hello.js';
import {
  describeHandshakeFailure,
  type LinkSecurity,
  refusalOfPeer,
  type TlsSecurity,
  tlsClientOptions,
  tlsServerOptions,
} from './security/link-security.js';

/** No certificates. */
export const PLAIN: LinkSecurity = { kind: 'plain' };

/** The connecting end. The socket may still be connecting; a plain one stays what it is. */
export function secureClient(socket: Socket, security: LinkSecurity, protocol: string): Socket {
  if (security.kind === 'plain') return socket;
  const secured = connect({ ...tlsClientOptions(security, protocol), socket });
  return guarded(secured, socket, { security, verified: 'secureConnect' });
}

/** The listening end, with what was read of the peer's first words. */
export function secureServer(
  socket: Socket,
  security: LinkSecurity,
  hello: { readonly protocol: string; readonly leftover: Buffer },
): Socket {
  if (hello.leftover.length > 0) socket.unshift(hello.leftover);
  if (security.kind === 'plain') return socket;
  const options = { ...tlsServerOptions(security, hello.protocol), isServer: true };
  return guarded(new TLSSocket(socket, options), socket, { security, verified: 'secure' });
}

function guarded(
  socket: TLSSocket,
  plain: Socket,
  { security, verified }: { security: TlsSecurity; verified: 'secure' | 'secureConnect' },
): TLSSocket {
  plain.on('error', (error) => socket.destroy(error));
  socket.cork();
  socket.once(verified, () => {
    const refusal = refusalOfPeer(socket, security);
    if (refusal === undefined) socket.uncork();
    else socket.destroy(new ProtocolError(`The peer is refused: ${refusal}`));
  });
  return socket;
}

/** The error of a socket, in words that say what is wrong with the peer. */
export function streamError(error: Error, socket: Socket): Error {
  if (!(socket instanceof TLSSocket) || error instanceof ProtocolError) return error;
  const isTls = /^(ERR_TLS|ERR_SSL|EPROTO)/.test((error as NodeJS.ErrnoException).code ?? '');
  if (!isTls && socket.authorizationError == null) return error;
  const refusal = describeHandshakeFailure(error, socket);
  return new ProtocolError(`The peer is refused: ${refusal}`, { cause: error });
}

/** One of the two is called, once; not after `stop`. */
export interface HelloEvents {
  /** The socket is paused, and told nobody but this of what was read: `leftover`. */
  onHello(protocol: string | undefined, leftover: Buffer): void;
  onFailure(reason: string): void;
}

/** Reads as much of a connection as tells which protocol it is for. */
export function awaitHello(socket: Socket, deadlineMs: number, events: HelloEvents): void {
  let bytes: Buffer = Buffer.alloc(0);
  const fail = (reason: string): void => {
    clearTimeout(deadline);
    socket.removeAllListeners('data').removeAllListeners('close');
    socket.destroy();
    events.onFailure(reason);
  };
  const deadline = setTimeout(() => fail(`No TLS hello within ${deadlineMs} ms`), deadlineMs);
  socket.on('error', () => undefined);
  socket.on('close', () => fail('It closed before its TLS hello'));
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk]);
    const hello = readClientHello(bytes.subarray(0, CLIENT_HELLO_MAX_BYTES));
    if (hello.kind === 'more') return;
    clearTimeout(deadline);
    socket.pause();
    socket.removeAllListeners('data').removeAllListeners('close');
    events.onHello(hello.alpn, bytes);
  });
}
