/**
 * QMP on the wire: bytes from QEMU in, messages out; commands in, bytes out.
 * One JSON object per line, CR LF after each (QEMU docs/interop/qmp-spec.txt, 7.2). Nothing that QEMU
 * says is trusted: a line has a bound, and a message must be one of the four kinds.
 */
import { ProtocolError } from '../lib/index.js';

export type JsonObject = Readonly<Record<string, unknown>>;

export interface QmpEvent {
  readonly kind: 'event';
  readonly name: string;
  readonly data: JsonObject;
}

export type QmpMessage =
  | { readonly kind: 'greeting'; readonly qemuVersion: string }
  | { readonly kind: 'return'; readonly id: number | undefined; readonly value: unknown }
  | {
      readonly kind: 'error';
      readonly id: number | undefined;
      readonly errorClass: string;
      readonly description: string;
    }
  | QmpEvent;

const LINE_FEED = 0x0a;

/** Feed it what the socket gives; it keeps at most one unfinished line. */
export class QmpDecoder {
  readonly #lineBytesMax: number;
  #pieces: Buffer[] = [];
  #pendingBytes = 0;

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax;
  }

  /** Throws ProtocolError on a line too long or malformed; the decoder is of no use after that. */
  write(chunk: Buffer): QmpMessage[] {
    const messages: QmpMessage[] = [];
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(LINE_FEED, start);
      const piece = chunk.subarray(start, end < 0 ? chunk.length : end);
      this.#pendingBytes += piece.length;
      if (this.#pendingBytes > this.#lineBytesMax) {
        throw new ProtocolError(`A QMP line exceeds the limit of ${this.#lineBytesMax} bytes`);
      }
      if (piece.length > 0) this.#pieces.push(piece);
      if (end < 0) return messages;
      const line = Buffer.concat(this.#pieces).toString('utf8').trim();
      this.#pieces = [];
      this.#pendingBytes = 0;
      if (line !== '') messages.push(parseQmpMessage(line));
      start = end + 1;
    }
  }

  /** Throws ProtocolError when the stream ends inside a line. */
  end(): void {
    if (this.#pendingBytes > 0) {
      throw new ProtocolError(`The QMP stream ended inside a line of ${this.#pendingBytes} bytes`);
    }
  }
}

/** One command as one line; `id` comes back with its answer. */
export function encodeQmpCommand(id: number, command: string, args: JsonObject): string {
  return `${JSON.stringify({ execute: command, arguments: args, id })}\r\n`;
}

/** One line of QMP. ProtocolError when it is none. */
export function parseQmpMessage(line: string): QmpMessage {
  const message = object(parseJson(line));
  if (message === undefined) throw malformed('is no JSON object', line);
  const id = typeof message['id'] === 'number' ? message['id'] : undefined;
  if ('return' in message) return { kind: 'return', id, value: message['return'] };
  if ('error' in message) {
    const error = object(message['error']);
    const errorClass = error?.['class'];
    const description = error?.['desc'];
    if (typeof errorClass !== 'string' || typeof description !== 'string') {
      throw malformed('has an error without class and desc', line);
    }
    return { kind: 'error', id, errorClass, description };
  }
  if ('event' in message) {
    const name = message['event'];
    if (typeof name !== 'string') throw malformed('has an event without a name', line);
    return { kind: 'event', name, data: object(message['data']) ?? {} };
  }
  if ('QMP' in message) return { kind: 'greeting', qemuVersion: parseVersion(message, line) };
  throw malformed('is neither answer, error, event nor greeting', line);
}

function parseVersion(message: JsonObject, line: string): string {
  const version = object(object(message['QMP'])?.['version']);
  const qemu = object(version?.['qemu']);
  const numbers = [qemu?.['major'], qemu?.['minor'], qemu?.['micro']];
  if (!numbers.every((number) => Number.isSafeInteger(number))) {
    throw malformed('is a greeting without a version', line);
  }
  return numbers.join('.');
}

/** `value` as an object with string keys, undefined when it is anything else. */
export function object(value: unknown): JsonObject | undefined {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? (value as JsonObject) : undefined;
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new ProtocolError('A QMP line is no JSON', { cause });
  }
}

function malformed(what: string, line: string): ProtocolError {
  return new ProtocolError(`A QMP message ${what}: ${line.slice(0, 200)}`);
}
