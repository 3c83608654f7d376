/**
 * Mutual TLS 1.3 between the hosts: what `node:tls` is told, and whether a peer is the right one.
 *
 * Both ends show a certificate, and both check the other's: OpenSSL does in the handshake, and
 * `refusalOfPeer` does again afterwards, by rules of ours that are stricter (the name; both uses)
 * and that hold as well for a TLSSocket around a socket that no tls.Server has looked at.
 */
import { constants, X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { type ConnectionOptions, TLSSocket, type TlsOptions } from 'node:tls';
import { ATTACH_DEADLINE_MS } from '../limits.js';
import { refusalOfCertificate } from './certificate.js';

/** How a link is protected. Plain data: it goes to other threads by postMessage. PEM texts. */
export type LinkSecurity = PlainSecurity | TlsSecurity;

export interface PlainSecurity {
  readonly kind: 'plain';
}

export interface TlsSecurity {
  readonly kind: 'tls';
  /** Whose signature counts; several while a CA is being replaced. */
  readonly ca: string;
  /** Ours; the host's own is the first. */
  readonly certificate: string;
  readonly key: string;
  /**
   * Host names and addresses, one of which the peer's certificate must have as subjectAltName;
   * ANY_PEER_NAME instead: whichever name, only the CA counts. None: nobody is let in.
   */
  readonly peerNames: readonly string[];
}

/** In `peerNames`: whoever our CA has signed. */
export const ANY_PEER_NAME = '*';

/** All of TLS 1.3 but the two with CCM; AES-128 first, the fastest where the CPU has AES. */
const SUITES = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
].join(':');

const GROUPS = 'X25519:P-256';

/** For `tls.connect`, or for a TLSSocket with `isServer: false`. */
export function tlsClientOptions(security: TlsSecurity, alpn: string): ConnectionOptions {
  return {
    ...commonOptions(security, alpn),
    // The peer is told by its certificate; which name it was dialled by is nobody's business.
    servername: '',
    checkServerIdentity: (_host, { raw }) => {
      const reason = refusalOfCertificate(new X509Certificate(raw), security);
      return reason === undefined ? undefined : new Error(reason);
    },
  };
}

/** For `tls.createServer`, or for a TLSSocket with `isServer: true`. */
export function tlsServerOptions(security: TlsSecurity, alpn: string): TlsOptions {
  return {
    ...commonOptions(security, alpn),
    requestCert: true,
    honorCipherOrder: true,
    // Only tells `tlsClientError`, whose owner must destroy the socket; and only of a tls.Server.
    handshakeTimeout: ATTACH_DEADLINE_MS,
  };
}

/**
 * Why this peer gets nothing, or undefined. To be asked at `secureConnect`, `secureConnection` or
 * `secure`, before a byte of the peer is looked at, on either end.
 */
export function refusalOfPeer(socket: TLSSocket, security: TlsSecurity): string | undefined {
  const protocol = socket.getProtocol();
  if (protocol !== 'TLSv1.3') return `it speaks ${protocol ?? 'no TLS'}, expected TLSv1.3`;
  if (typeof socket.alpnProtocol !== 'string') return 'it named no protocol of ours (ALPN)';
  const certificate = certificateOfPeer(socket);
  if (certificate === undefined) return 'it showed no certificate';
  return refusalByOpenssl(socket) ?? refusalOfCertificate(certificate, security);
}

/** Undefined before the handshake, if the peer has shown none, and without TLS. */
export function certificateOfPeer(socket: Socket): X509Certificate | undefined {
  if (!(socket instanceof TLSSocket)) return undefined;
  const known = shown.get(socket);
  if (known !== undefined) return known;
  const certificate = socket.getPeerX509Certificate();
  if (certificate !== undefined) shown.set(socket, certificate);
  return certificate;
}

/** Asked a second time, the connecting end of Node 20 has taken it out of OpenSSL's chain. */
const shown = new WeakMap<TLSSocket, X509Certificate>();

/**
 * OpenSSL's own verdict, which a tls.Server acts on and a TLSSocket around another socket does not:
 * it knows extensions that we do not look at, such as a CA's constraints on names.
 */
function refusalByOpenssl(socket: TLSSocket): string | undefined {
  const { _handle: handle } = socket as unknown as { readonly _handle: TlsHandle | null };
  if (handle === null) return 'its connection is closed';
  const code = (handle.verifyError() as NodeJS.ErrnoException | null)?.code;
  if (code === undefined) return undefined;
  return HANDSHAKE_FAILURES[code] ?? `its certificate is refused (${code})`;
}

/** What `tls` itself asks. */
interface TlsHandle {
  verifyError(): Error | null;
}

/**
 * Why a handshake failed, in words: from the error of `tlsClientError`, or of the socket's `error`.
 * A tls.Server that has refused a certificate tells why in the socket only.
 */
export function describeHandshakeFailure(error: unknown, socket?: TLSSocket): string {
  // A string here, whatever the type says.
  const verdict: unknown = socket?.authorizationError;
  const code = verdict ?? (error as NodeJS.ErrnoException | undefined)?.code;
  if (typeof code === 'string') {
    const words = HANDSHAKE_FAILURES[code];
    if (words !== undefined) return words;
    if (verdict !== null && verdict !== undefined) return `its certificate is refused (${code})`;
  }
  return error instanceof Error ? error.message : String(error);
}

/** By Node's code: of a certificate's verification, or of OpenSSL's error. */
const HANDSHAKE_FAILURES: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is signed by itself, not by our CA',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is not by our CA',
  UNABLE_TO_GET_ISSUER_CERT: 'its certificate is not by our CA',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate is not by our CA',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is not by our CA',
  CERT_SIGNATURE_FAILURE: "its certificate's signature is not our CA's",
  INVALID_PURPOSE: 'its certificate is for another use',
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'it showed no certificate',
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'it speaks no TLS 1.3',
  ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION: 'it speaks no TLS 1.3',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it speaks no TLS',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'it speaks no TLS',
  ERR_TLS_HANDSHAKE_TIMEOUT: 'it did not finish the handshake in time',
  ERR_SSL_HTTP_REQUEST: 'it speaks HTTP, not TLS',
  ERR_SSL_NO_APPLICATION_PROTOCOL: 'it named no protocol of ours (ALPN)',
  ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL: 'it knows no protocol of ours (ALPN)',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'it wants a certificate, and we showed none',
  ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE: 'it knows no cipher suite of ours',
  ERR_SSL_NO_SHARED_CIPHER: 'it knows no cipher suite of ours',
};

function commonOptions(security: TlsSecurity, alpn: string) {
  const { ca, certificate, key } = security;
  return {
    ca,
    cert: certificate,
    key,
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    ciphers: SUITES,
    ecdhCurve: GROUPS,
    // Without tickets OpenSSL would keep sessions itself, and Node has that switched off: each
    // connection proves who it is anew, so that a refusal holds from the next one on.
    secureOptions: constants.SSL_OP_NO_TICKET,
    ALPNProtocols: [alpn],
    rejectUnauthorized: true,
  } as const;
}
