/**
 * The first words of a TLS connection, read as far as it takes to know where it goes: which
 * protocol the client asks for (ALPN). They are sent in clear and prove nothing; whoever goes on
 * with the connection gets the same bytes and decides.
 *
 * In: what has come so far. Out: the protocol; that it is not to be had; or that more must come.
 * Formats: RFC 8446 sections 4.1.2, 4.2 and 5.1, RFC 7301 section 3.1.
 */
import { ByteReader, ProtocolError } from '../lib/index.js';

/** A hello of ours is 300 bytes; one with every key share that there is, some thousand. */
export const CLIENT_HELLO_MAX_BYTES = 16 * 1024;

/** `alpn` undefined: it names no single protocol, or is none that we can read. */
export type ClientHello =
  | { readonly kind: 'more' }
  | {
      readonly kind: 'hello';
      readonly alpn: string | undefined;
    };

const RECORD_HEADER_BYTES = 5;
const RECORD_MAX_BYTES = 1 << 14;
const HANDSHAKE_HEADER_BYTES = 4;
const HANDSHAKE_RECORD = 22;
const CLIENT_HELLO = 1;
const ALPN_EXTENSION = 16;
const RANDOM_BYTES = 32;

const UNREADABLE: ClientHello = { kind: 'hello', alpn: undefined };
const MORE: ClientHello = { kind: 'more' };

/** To be asked again with more until it says something, or with CLIENT_HELLO_MAX_BYTES anything. */
export function readClientHello(bytes: Buffer): ClientHello {
  try {
    const message = handshakeBytes(bytes);
    if (message === undefined || message.length < HANDSHAKE_HEADER_BYTES) return lacks(bytes);
    const reader = new ByteReader(message);
    if (reader.uint8() !== CLIENT_HELLO) return UNREADABLE;
    const length = (reader.uint8() << 16) | reader.uint16();
    if (length > CLIENT_HELLO_MAX_BYTES) return UNREADABLE;
    if (message.length < HANDSHAKE_HEADER_BYTES + length) return lacks(bytes);
    return { kind: 'hello', alpn: alpnOf(reader.bytes(length)) };
  } catch (error) {
    if (error instanceof ProtocolError) return UNREADABLE;
    throw error;
  }
}

function lacks(bytes: Buffer): ClientHello {
  return bytes.length < CLIENT_HELLO_MAX_BYTES ? MORE : UNREADABLE;
}

/** The handshake message, put together from its records; undefined: not even one has begun. */
function handshakeBytes(bytes: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  let at = 0;
  while (bytes.length - at >= RECORD_HEADER_BYTES) {
    const type = bytes.readUInt8(at);
    const major = bytes.readUInt8(at + 1);
    const length = bytes.readUInt16BE(at + 3);
    if (type !== HANDSHAKE_RECORD || major !== 3 || length === 0 || length > RECORD_MAX_BYTES) {
      throw new ProtocolError('This is no TLS handshake');
    }
    at += RECORD_HEADER_BYTES;
    parts.push(bytes.subarray(at, at + length));
    at += length;
  }
  if (parts.length === 0 && bytes.length > 0 && bytes.readUInt8(0) !== HANDSHAKE_RECORD) {
    throw new ProtocolError('This is no TLS handshake');
  }
  return parts.length === 0 ? undefined : Buffer.concat(parts);
}

function alpnOf(hello: Buffer): string | undefined {
  const reader = new ByteReader(hello);
  reader.uint16();
  reader.bytes(RANDOM_BYTES);
  reader.bytes(reader.uint8());
  reader.bytes(reader.uint16());
  reader.bytes(reader.uint8());
  const extensions = new ByteReader(reader.bytes(reader.uint16()));
  while (extensions.remaining > 0) {
    const type = extensions.uint16();
    const data = extensions.bytes(extensions.uint16());
    if (type === ALPN_EXTENSION) return onlyName(data);
  }
  return undefined;
}

function onlyName(data: Buffer): string | undefined {
  const reader = new ByteReader(data);
  const names = new ByteReader(reader.bytes(reader.uint16()));
  const name = names.bytes(names.uint8());
  reader.end();
  names.end();
  return name.toString('latin1');
}
