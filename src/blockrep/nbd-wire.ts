/**
 * The NBD messages we speak: numbers, and encoding and decoding of the fixed-size parts.
 *
 * All integers are big-endian.
 *
 *   greeting        magic u64 "NBDMAGIC", u64 "IHAVEOPT", handshake flags u16
 *   client flags    u32
 *   option          u64 "IHAVEOPT", option u32, length u32, data
 *   option reply    magic u64, option u32, type u32, length u32, data
 *   request         magic u32, flags u16, type u16, cookie u64, offset u64, length u32 [, data]
 *   simple reply    magic u32, error u32, cookie u64 [, data]
 *   reply chunk     magic u32, flags u16, type u16, cookie u64, length u32, payload
 *     offset data   offset u64, data
 *     block status  see nbd-extents.ts
 *     error         error u32, message length u16, message
 *
 * We answer with one chunk only, so each has the flag DONE.
 *
 * Source: NBD doc/proto.md as of 2019 (fixed newstyle, simple and structured replies),
 * NetworkBlockDevice/nbd.
 */
import { ByteReader, ProtocolError } from '../lib/index.js';
import {
  NBD_INFO_REQUESTS_MAX,
  NBD_META_QUERIES_MAX,
  NBD_NAME_BYTES_MAX,
  NBD_PAYLOAD_BYTES_MAX,
} from './limits.js';

export const NBD_PASSWORD_MAGIC = 0x4e42444d41474943n; // "NBDMAGIC"
export const NBD_OPTION_MAGIC = 0x49484156454f5054n; // "IHAVEOPT"
export const NBD_OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const NBD_REQUEST_MAGIC = 0x25609513;
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const NBD_CHUNK_MAGIC = 0x668e33ef;

/** The only metadata context: which parts of the disk are holes. */
export const BASE_ALLOCATION = 'base:allocation';
/** Our number for it. */
export const BASE_ALLOCATION_ID = 1;

export const NBD_HANDSHAKE_FLAG = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const NBD_TRANSMISSION_FLAG = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  sendTrim: 32,
  sendWriteZeroes: 64,
  sendDf: 128,
  canMultiConn: 256,
} as const;

export const NBD_OPTION = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

export const NBD_REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errorUnsupported: 0x8000_0001,
  errorInvalid: 0x8000_0003,
  errorUnknown: 0x8000_0006,
} as const;

export const NBD_INFO = { export: 0, name: 1, blockSize: 3 } as const;

export const NBD_COMMAND = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** `reference` and `whole` are not of the protocol: nbd-references.ts. */
export const NBD_COMMAND_FLAG = {
  fua: 1,
  noHole: 2,
  dontFragment: 4,
  requestOne: 8,
  reference: 0x8000,
  whole: 0x4000,
} as const;

export const NBD_CHUNK = { none: 0, offsetData: 1, blockStatus: 5, error: 0x8001 } as const;
const NBD_CHUNK_DONE = 1;
export const NBD_CHUNK_FLAGS_OFFSET = 4;

/** The error values that proto.md allows in a reply and that we use; 0 is success. */
export const NBD_ERROR = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
} as const;

export type NbdError = (typeof NBD_ERROR)[keyof typeof NBD_ERROR];

export const NBD_CLIENT_FLAGS_BYTES = 4;
export const NBD_OPTION_HEADER_BYTES = 16;
export const NBD_REQUEST_BYTES = 28;
const SIMPLE_REPLY_BYTES = 16;
const CHUNK_HEADER_BYTES = 20;
const OLD_STYLE_PADDING_BYTES = 124;

export interface NbdOptionHeader {
  readonly option: number;
  readonly length: number;
}

/** A request header as it came, nothing but the magic checked. */
export interface NbdRequestHeader {
  readonly flags: number;
  readonly command: number;
  readonly cookie: bigint;
  /** Infinity where the field is beyond 2^53: out of range for every disk. */
  readonly offset: number;
  readonly length: number;
}

export function encodeGreeting(): Buffer {
  const bytes = Buffer.allocUnsafe(18);
  bytes.writeBigUInt64BE(NBD_PASSWORD_MAGIC, 0);
  bytes.writeBigUInt64BE(NBD_OPTION_MAGIC, 8);
  bytes.writeUInt16BE(NBD_HANDSHAKE_FLAG.fixedNewstyle | NBD_HANDSHAKE_FLAG.noZeroes, 16);
  return bytes;
}

/** Throws ProtocolError on a flag that we did not offer, as proto.md demands. */
export function decodeClientFlags(bytes: Buffer): { noZeroes: boolean } {
  const flags = bytes.readUInt32BE(0);
  const known = NBD_HANDSHAKE_FLAG.fixedNewstyle | NBD_HANDSHAKE_FLAG.noZeroes;
  if (flags > known) throw new ProtocolError(`Unknown NBD client flags 0x${flags.toString(16)}`);
  return { noZeroes: (flags & NBD_HANDSHAKE_FLAG.noZeroes) !== 0 };
}

export function decodeOptionHeader(bytes: Buffer): NbdOptionHeader {
  if (bytes.readBigUInt64BE(0) !== NBD_OPTION_MAGIC) {
    throw new ProtocolError('An NBD option does not start with its magic');
  }
  return { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12) };
}

export function encodeOptionReply(
  option: number,
  type: number,
  data: Buffer = Buffer.alloc(0),
): Buffer {
  const bytes = Buffer.allocUnsafe(20 + data.length);
  bytes.writeBigUInt64BE(NBD_OPTION_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(data.length, 16);
  data.copy(bytes, 20);
  return bytes;
}

/** Data of GO and INFO: name length u32, name, count u16, count times u16. */
export function decodeInfoRequest(data: Buffer): { name: string; wanted: number[] } {
  const reader = new ByteReader(data);
  const name = reader.text(NBD_NAME_BYTES_MAX);
  const count = reader.uint16();
  if (count > NBD_INFO_REQUESTS_MAX) {
    throw new ProtocolError(`${count} NBD information requests exceed ${NBD_INFO_REQUESTS_MAX}`);
  }
  const wanted: number[] = [];
  for (let i = 0; i < count; i++) wanted.push(reader.uint16());
  reader.end();
  return { name, wanted };
}

/** Data of LIST and SET_META_CONTEXT: name length u32, name, count u32; each length u32, text. */
export function decodeMetaContextRequest(data: Buffer): { name: string; queries: string[] } {
  const reader = new ByteReader(data);
  const name = reader.text(NBD_NAME_BYTES_MAX);
  const count = reader.uint32();
  if (count > NBD_META_QUERIES_MAX) {
    throw new ProtocolError(`${count} NBD metadata queries exceed ${NBD_META_QUERIES_MAX}`);
  }
  const queries: string[] = [];
  for (let i = 0; i < count; i++) queries.push(reader.text(NBD_NAME_BYTES_MAX));
  reader.end();
  return { name, queries };
}

/** Data of a reply of type `metaContext`. */
export function encodeMetaContext(id: number, name: string): Buffer {
  const bytes = Buffer.alloc(4 + Buffer.byteLength(name));
  bytes.writeUInt32BE(id, 0);
  bytes.write(name, 4);
  return bytes;
}

/** Data of a reply of type `server`: the name of one export. */
export function encodeServerName(name: string): Buffer {
  const text = Buffer.from(name, 'utf8');
  const bytes = Buffer.allocUnsafe(4 + text.length);
  bytes.writeUInt32BE(text.length, 0);
  text.copy(bytes, 4);
  return bytes;
}

export function encodeInfoExport(sizeBytes: number, flags: number): Buffer {
  const bytes = Buffer.allocUnsafe(12);
  bytes.writeUInt16BE(NBD_INFO.export, 0);
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 2);
  bytes.writeUInt16BE(flags, 10);
  return bytes;
}

export function encodeInfoName(name: string): Buffer {
  const text = Buffer.from(name, 'utf8');
  const bytes = Buffer.allocUnsafe(2 + text.length);
  bytes.writeUInt16BE(NBD_INFO.name, 0);
  text.copy(bytes, 2);
  return bytes;
}

/** Any alignment is served; 4 KiB is what suits the image and the overlay. */
export function encodeInfoBlockSize(): Buffer {
  const bytes = Buffer.allocUnsafe(14);
  bytes.writeUInt16BE(NBD_INFO.blockSize, 0);
  bytes.writeUInt32BE(1, 2);
  bytes.writeUInt32BE(4096, 6);
  bytes.writeUInt32BE(NBD_PAYLOAD_BYTES_MAX, 10);
  return bytes;
}

/** The answer to EXPORT_NAME, which has no reply header. */
export function encodeExportNameReply(
  sizeBytes: number,
  flags: number,
  options: { noZeroes: boolean },
): Buffer {
  const bytes = Buffer.alloc(10 + (options.noZeroes ? 0 : OLD_STYLE_PADDING_BYTES));
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

/** `at` is where the 28 bytes start; the caller has checked that they are there. */
export function decodeRequest(bytes: Buffer, at: number): NbdRequestHeader {
  const magic = bytes.readUInt32BE(at);
  if (magic !== NBD_REQUEST_MAGIC) {
    throw new ProtocolError(`An NBD request starts with 0x${magic.toString(16)}, not its magic`);
  }
  const offsetHigh = bytes.readUInt32BE(at + 16);
  const offsetLow = bytes.readUInt32BE(at + 20);
  return {
    flags: bytes.readUInt16BE(at + 4),
    command: bytes.readUInt16BE(at + 6),
    cookie: bytes.readBigUInt64BE(at + 8),
    offset: offsetHigh > 0x1f_ffff ? Infinity : offsetHigh * 0x1_0000_0000 + offsetLow,
    length: bytes.readUInt32BE(at + 24),
  };
}

/** Read data, if any, follows as it is. */
export function encodeSimpleReply(cookie: bigint, error: NbdError | 0): Buffer {
  const bytes = Buffer.allocUnsafe(SIMPLE_REPLY_BYTES);
  bytes.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(error, 4);
  bytes.writeBigUInt64BE(cookie, 8);
  return bytes;
}

/** What stands before the data of a read that succeeded; `length` bytes of data follow. */
export function encodeReadChunk(
  cookie: bigint,
  { offset, length }: { readonly offset: number; readonly length: number },
): Buffer {
  if (length === 0) return encodeChunkHeader(NBD_CHUNK.none, cookie, { payload: 0, own: 0 });
  const sizes = { payload: 8 + length, own: 8 };
  const bytes = encodeChunkHeader(NBD_CHUNK.offsetData, cookie, sizes);
  bytes.writeUInt32BE(Math.floor(offset / 0x1_0000_0000), CHUNK_HEADER_BYTES);
  bytes.writeUInt32BE(offset % 0x1_0000_0000, CHUNK_HEADER_BYTES + 4);
  return bytes;
}

/** What stands before the descriptors of nbd-extents.ts. */
export function encodeStatusChunk(cookie: bigint, payloadBytes: number): Buffer {
  return encodeChunkHeader(NBD_CHUNK.blockStatus, cookie, { payload: payloadBytes, own: 0 });
}

/** The whole reply to a structured request that failed; without words. */
export function encodeErrorChunk(cookie: bigint, error: NbdError): Buffer {
  const bytes = encodeChunkHeader(NBD_CHUNK.error, cookie, { payload: 6, own: 6 });
  bytes.writeUInt32BE(error, CHUNK_HEADER_BYTES);
  bytes.writeUInt16BE(0, CHUNK_HEADER_BYTES + 4);
  return bytes;
}

/** A header with room for the first `own` bytes of its payload, which the caller fills. */
function encodeChunkHeader(
  type: number,
  cookie: bigint,
  sizes: { readonly payload: number; readonly own: number },
): Buffer {
  const bytes = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + sizes.own);
  bytes.writeUInt32BE(NBD_CHUNK_MAGIC, 0);
  bytes.writeUInt16BE(NBD_CHUNK_DONE, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeUInt32BE(sizes.payload, 16);
  return bytes;
}
