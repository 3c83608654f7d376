/**
 * RESP2, the redis protocol, as far as a load client needs it. In: bytes of a connection, split
 * anywhere. Out: replies. Source: redis.io "Redis serialization protocol specification", version 2.
 *
 * Every length is checked against its limit before anything is kept for it; a broken reply throws
 * `ProtocolError`.
 */
import { ProtocolError } from '../../src/lib/index.js';

/** Longest status, error or number line; redis' own are below 200 bytes. */
const LINE_BYTES_MAX = 4096;
/** Longest string reply; the clients store values of a few digits. */
const BULK_BYTES_MAX = 1 << 20;
/** Most elements of a list reply; the largest MGET asks for fewer. */
const ELEMENTS_MAX = 4096;
/** Deepest nesting; no command used here nests at all. */
const DEPTH_MAX = 4;
/** Most bytes kept for replies that are not complete. */
const PENDING_BYTES_MAX = 8 << 20;

export type RespValue =
  | { readonly kind: 'status'; readonly text: string }
  | { readonly kind: 'error'; readonly text: string }
  | { readonly kind: 'integer'; readonly value: number }
  | { readonly kind: 'bulk'; readonly bytes: Buffer }
  | { readonly kind: 'null' }
  | { readonly kind: 'array'; readonly items: readonly RespValue[] };

interface Parsed {
  readonly value: RespValue;
  readonly end: number;
}

/** Decodes replies; bytes of strings are copied out of the input. */
export class RespParser {
  #pending = Buffer.alloc(0);

  /** Takes the next bytes and returns the replies they complete. */
  write(chunk: Buffer): RespValue[] {
    if (this.#pending.length + chunk.length > PENDING_BYTES_MAX) {
      throw new ProtocolError(`More than ${PENDING_BYTES_MAX} bytes without a complete reply`);
    }
    const bytes = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const values: RespValue[] = [];
    let at = 0;
    for (;;) {
      const parsed = parseValue(bytes, at, 0);
      if (parsed === undefined) break;
      values.push(parsed.value);
      at = parsed.end;
    }
    this.#pending = Buffer.from(bytes.subarray(at));
    return values;
  }
}

/** A command as the list of bulk strings that redis expects. */
export function encodeCommand(words: readonly string[]): Buffer {
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return Buffer.from(`*${words.length}\r\n${parts.join('')}`);
}

function parseValue(bytes: Buffer, at: number, depth: number): Parsed | undefined {
  const line = readLine(bytes, at);
  if (line === undefined) return undefined;
  const { text, end } = line;
  const rest = text.slice(1);
  switch (text[0]) {
    case '+':
      return { value: { kind: 'status', text: rest }, end };
    case '-':
      return { value: { kind: 'error', text: rest }, end };
    case ':':
      return { value: { kind: 'integer', value: parseInteger(rest) }, end };
    case '$':
      return parseBulk(bytes, parseLength(rest, BULK_BYTES_MAX), end);
    case '*':
      return parseArray(bytes, parseLength(rest, ELEMENTS_MAX), { at: end, depth: depth + 1 });
    default:
      throw new ProtocolError(`A reply starts with ${JSON.stringify(text.slice(0, 1))}`);
  }
}

function parseBulk(bytes: Buffer, length: number, at: number): Parsed | undefined {
  if (length < 0) return { value: { kind: 'null' }, end: at };
  const end = at + length + 2;
  if (bytes.length < end) return undefined;
  if (bytes[end - 2] !== 0x0d || bytes[end - 1] !== 0x0a) {
    throw new ProtocolError(`A string of ${length} bytes does not end with CRLF`);
  }
  return { value: { kind: 'bulk', bytes: Buffer.from(bytes.subarray(at, end - 2)) }, end };
}

function parseArray(
  bytes: Buffer,
  length: number,
  from: { at: number; depth: number },
): Parsed | undefined {
  if (length < 0) return { value: { kind: 'null' }, end: from.at };
  if (from.depth > DEPTH_MAX) throw new ProtocolError(`Lists nest deeper than ${DEPTH_MAX}`);
  const items: RespValue[] = [];
  let at = from.at;
  for (let i = 0; i < length; i++) {
    const parsed = parseValue(bytes, at, from.depth);
    if (parsed === undefined) return undefined;
    items.push(parsed.value);
    at = parsed.end;
  }
  return { value: { kind: 'array', items }, end: at };
}

function readLine(bytes: Buffer, at: number): { text: string; end: number } | undefined {
  const end = bytes.indexOf('\r\n', at, 'latin1');
  const length = (end < 0 ? bytes.length : end) - at;
  if (length > LINE_BYTES_MAX) {
    throw new ProtocolError(`A reply line is longer than ${LINE_BYTES_MAX} bytes`);
  }
  return end < 0 ? undefined : { text: bytes.toString('utf8', at, end), end: end + 2 };
}

function parseInteger(text: string): number {
  const value = Number(text);
  if (!/^[+-]?\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new ProtocolError(`${JSON.stringify(text.slice(0, 32))} is no whole number`);
  }
  return value;
}

function parseLength(text: string, max: number): number {
  const length = parseInteger(text);
  if (length < -1 || length > max) {
    throw new ProtocolError(`A length of ${length} exceeds the limit of ${max}`);
  }
  return length;
}
