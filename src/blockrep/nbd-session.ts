/**
 * The server's side of one NBD connection, without the socket.
 *
 * Bytes come in through `receive`, instructions go out through `next`, one at a time and only when
 * the caller asks: a caller that is at its bound of work in progress simply stops asking, and then
 * stops reading the socket. A request that comes out has been checked against the export: it lies
 * inside the disk, it is no write to a read-only one, its payload is complete. Requests that fail
 * these checks are answered here (`send`), so the layers never see them.
 *
 *   greeting -> clientFlags -> optionHeader <-> optionData -> request <-> payload | discard ->
 *   ended
 *
 * Memory: what was received and not asked for, plus one write payload, allocated only after its
 * length has been checked.
 *
 * Malformed bytes throw ProtocolError from `next`; afterwards the session is over.
 */
import { ProtocolError, unreachable } from '../lib/index.js';
import {
  NBD_NAME_BYTES_MAX,
  NBD_OPTION_BYTES_MAX,
  NBD_OPTIONS_MAX,
  NBD_PAYLOAD_BYTES_MAX,
} from './limits.js';
import {
  decodeClientFlags,
  decodeInfoRequest,
  decodeOptionHeader,
  decodeRequest,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoName,
  encodeOptionReply,
  encodeServerName,
  encodeSimpleReply,
  NBD_CLIENT_FLAGS_BYTES,
  NBD_COMMAND,
  NBD_COMMAND_FLAG,
  NBD_ERROR,
  NBD_INFO,
  NBD_OPTION,
  NBD_OPTION_HEADER_BYTES,
  NBD_REPLY,
  NBD_REQUEST_BYTES,
  NBD_TRANSMISSION_FLAG,
  type NbdError,
  type NbdOptionHeader,
  type NbdRequestHeader,
} from './nbd-wire.js';

/** What the session must know of an export. */
export interface NbdExportInfo {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

/** A request to carry out and to answer with its cookie. Offsets and lengths lie in the export. */
export type NbdRequest =
  | { readonly kind: 'read'; readonly cookie: bigint; offset: number; length: number }
  | {
      readonly kind: 'write';
      readonly cookie: bigint;
      offset: number;
      length: number;
      /** Never written to again by the session. */
      data: Buffer;
      fua: boolean;
    }
  | {
      readonly kind: 'writeZeroes';
      readonly cookie: bigint;
      offset: number;
      length: number;
      mayTrim: boolean;
      fua: boolean;
    }
  | {
      readonly kind: 'trim';
      readonly cookie: bigint;
      offset: number;
      length: number;
      fua: boolean;
    }
  | { readonly kind: 'flush'; readonly cookie: bigint };

export type NbdInstruction =
  | { readonly kind: 'send'; readonly bytes: Buffer }
  /** Requests follow, all for this export. */
  | { readonly kind: 'attach'; readonly name: string }
  | { readonly kind: 'request'; readonly request: NbdRequest }
  /** The client said goodbye: answer what is in progress, then close. */
  | { readonly kind: 'end' };

type WriteRequest = Extract<NbdRequest, { kind: 'write' }>;

type State =
  | { readonly kind: 'greeting' }
  | { readonly kind: 'clientFlags' }
  | { readonly kind: 'optionHeader' }
  | { readonly kind: 'optionData'; readonly header: NbdOptionHeader }
  | { readonly kind: 'request' }
  | { readonly kind: 'payload'; readonly request: WriteRequest; filled: number }
  | { readonly kind: 'discard'; readonly reply: Buffer; remaining: number }
  | { readonly kind: 'ended' };

const NOTHING = Buffer.alloc(0);

export class NbdSession {
  readonly #exports: ReadonlyMap<string, NbdExportInfo>;
  readonly #allocate: (length: number) => Buffer;
  #export: NbdExportInfo = { sizeBytes: 0, readOnly: true };
  #state: State = { kind: 'greeting' };
  #bytes: Buffer = NOTHING;
  #position = 0;
  #noZeroes = false;
  #options = 0;
  #queue: NbdInstruction[] = [];

  /**
   * `exports` is looked at when a client chooses; the empty name means the only export. `allocate`
   * gives the memory for a payload that comes in pieces.
   */
  constructor(
    exports: ReadonlyMap<string, NbdExportInfo>,
    allocate: (length: number) => Buffer = Buffer.allocUnsafeSlow,
  ) {
    this.#exports = exports;
    this.#allocate = allocate;
  }

  /** Received bytes that `next` has not consumed yet. */
  get unreadBytes(): number {
    return this.#bytes.length - this.#position;
  }

  /** True once an export has been chosen. */
  get negotiated(): boolean {
    const kind = this.#state.kind;
    return kind === 'request' || kind === 'payload' || kind === 'discard';
  }

  /**
   * Where the next bytes of the socket belong, if they are nothing but a write's payload: whoever
   * reads them to its beginning says `filled` instead of `receive`.
   */
  get payloadRest(): Buffer | undefined {
    const state = this.#state;
    if (state.kind !== 'payload' || this.unreadBytes > 0) return undefined;
    return state.request.data.subarray(state.filled);
  }

  /** So many bytes have been put to the beginning of `payloadRest`. */
  filled(bytes: number): void {
    if (this.#state.kind === 'payload') this.#state.filled += bytes;
  }

  /** Keeps `chunk`; the caller must not change it any more. */
  receive(chunk: Buffer): void {
    if (this.#state.kind === 'ended') return;
    this.#bytes =
      this.unreadBytes === 0 ? chunk : Buffer.concat([this.#bytes.subarray(this.#position), chunk]);
    this.#position = 0;
  }

  /** The next thing to do; undefined when more bytes are needed. Throws ProtocolError. */
  next(): NbdInstruction | undefined {
    try {
      for (;;) {
        const queued = this.#queue.shift();
        if (queued !== undefined) return queued;
        const before = this.#state;
        const instruction = this.#advance();
        if (instruction !== undefined) return instruction;
        if (this.#queue.length === 0 && this.#state === before) return undefined;
      }
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  /** One step of the machine; the state object stays the same when bytes are missing. */
  #advance(): NbdInstruction | undefined {
    const state = this.#state;
    switch (state.kind) {
      case 'greeting':
        this.#state = { kind: 'clientFlags' };
        return { kind: 'send', bytes: encodeGreeting() };
      case 'clientFlags': {
        const bytes = this.#take(NBD_CLIENT_FLAGS_BYTES);
        if (bytes === undefined) return undefined;
        this.#noZeroes = decodeClientFlags(bytes).noZeroes;
        this.#state = { kind: 'optionHeader' };
        return undefined;
      }
      case 'optionHeader':
        this.#optionHeader();
        return undefined;
      case 'optionData': {
        const data = this.#take(state.header.length);
        if (data === undefined) return undefined;
        this.#state = { kind: 'optionHeader' };
        this.#option(state.header.option, data);
        return undefined;
      }
      case 'request':
        return this.#request();
      case 'payload':
        return this.#payload(state);
      case 'discard':
        return this.#discard(state);
      case 'ended':
        return undefined;
      default:
        return unreachable(state);
    }
  }

  #take(length: number): Buffer | undefined {
    if (this.unreadBytes < length) return undefined;
    const bytes = this.#bytes.subarray(this.#position, this.#position + length);
    this.#position += length;
    return bytes;
  }

  #end(): void {
    this.#state = { kind: 'ended' };
    this.#bytes = NOTHING;
    this.#position = 0;
    this.#queue = [];
  }

  #optionHeader(): void {
    const bytes = this.#take(NBD_OPTION_HEADER_BYTES);
    if (bytes === undefined) return;
    const header = decodeOptionHeader(bytes);
    if (header.length > NBD_OPTION_BYTES_MAX) {
      throw new ProtocolError(
        `NBD option ${header.option} has ${header.length} bytes, more than ${NBD_OPTION_BYTES_MAX}`,
      );
    }
    this.#options += 1;
    if (this.#options > NBD_OPTIONS_MAX) {
      throw new ProtocolError(`More than ${NBD_OPTIONS_MAX} NBD options without an export`);
    }
    this.#state = { kind: 'optionData', header };
  }

  #option(option: number, data: Buffer): void {
    switch (option) {
      case NBD_OPTION.exportName:
        this.#chooseByExportName(data);
        return;
      case NBD_OPTION.abort:
        this.#end();
        this.#reply(option, NBD_REPLY.ack);
        this.#queue.push({ kind: 'end' });
        return;
      case NBD_OPTION.list:
        this.#list(data);
        return;
      case NBD_OPTION.info:
      case NBD_OPTION.go:
        this.#info(option, data);
        return;
      default:
        // STARTTLS and STRUCTURED_REPLY among them: refused, and the client goes on without.
        this.#reply(option, NBD_REPLY.errorUnsupported);
    }
  }

  #reply(option: number, type: number, data?: Buffer): void {
    this.#queue.push({ kind: 'send', bytes: encodeOptionReply(option, type, data) });
  }

  #list(data: Buffer): void {
    if (data.length > 0) {
      this.#reply(NBD_OPTION.list, NBD_REPLY.errorInvalid);
      return;
    }
    for (const name of this.#exports.keys()) {
      this.#reply(NBD_OPTION.list, NBD_REPLY.server, encodeServerName(name));
    }
    this.#reply(NBD_OPTION.list, NBD_REPLY.ack);
  }

  #find(name: string): { name: string; info: NbdExportInfo } | undefined {
    const info = this.#exports.get(name);
    if (info !== undefined) return { name, info };
    const [only, more] = this.#exports;
    if (name !== '' || only === undefined || more !== undefined) return undefined;
    return { name: only[0], info: only[1] };
  }

  /** EXPORT_NAME can not be refused with words: an unknown name ends the connection. */
  #chooseByExportName(data: Buffer): void {
    if (data.length > NBD_NAME_BYTES_MAX) {
      throw new ProtocolError(`An NBD export name of ${data.length} bytes is too long`);
    }
    const name = data.toString('utf8');
    const found = this.#find(name);
    if (found === undefined) {
      throw new ProtocolError(`No NBD export is named ${JSON.stringify(name.slice(0, 80))}`);
    }
    const bytes = encodeExportNameReply(found.info.sizeBytes, transmissionFlags(found.info), {
      noZeroes: this.#noZeroes,
    });
    this.#queue.push({ kind: 'send', bytes });
    this.#attach(found);
  }

  #attach(found: { name: string; info: NbdExportInfo }): void {
    this.#export = found.info;
    this.#state = { kind: 'request' };
    this.#queue.push({ kind: 'attach', name: found.name });
  }

  #info(option: number, data: Buffer): void {
    const wish = readInfoRequest(data);
    if (wish === undefined) {
      this.#reply(option, NBD_REPLY.errorInvalid);
      return;
    }
    const found = this.#find(wish.name);
    if (found === undefined) {
      this.#reply(option, NBD_REPLY.errorUnknown);
      return;
    }
    const { sizeBytes } = found.info;
    const flags = transmissionFlags(found.info);
    this.#reply(option, NBD_REPLY.info, encodeInfoExport(sizeBytes, flags));
    if (wish.wanted.includes(NBD_INFO.name)) {
      this.#reply(option, NBD_REPLY.info, encodeInfoName(found.name));
    }
    if (wish.wanted.includes(NBD_INFO.blockSize)) {
      this.#reply(option, NBD_REPLY.info, encodeInfoBlockSize());
    }
    this.#reply(option, NBD_REPLY.ack);
    if (option === NBD_OPTION.go) this.#attach(found);
  }

  #request(): NbdInstruction | undefined {
    if (this.unreadBytes < NBD_REQUEST_BYTES) return undefined;
    const header = decodeRequest(this.#bytes, this.#position);
    this.#position += NBD_REQUEST_BYTES;
    if (header.command === NBD_COMMAND.write) return this.#writeRequest(header);
    if (header.command === NBD_COMMAND.disconnect) {
      this.#end();
      return { kind: 'end' };
    }
    const error = checkRequest(header, this.#export);
    if (error !== 0) return { kind: 'send', bytes: encodeSimpleReply(header.cookie, error) };
    return { kind: 'request', request: toRequest(header) };
  }

  #writeRequest(header: NbdRequestHeader): NbdInstruction | undefined {
    const { cookie, offset, length } = header;
    if (length > NBD_PAYLOAD_BYTES_MAX) {
      throw new ProtocolError(
        `An NBD write of ${length} bytes exceeds the limit of ${NBD_PAYLOAD_BYTES_MAX}`,
      );
    }
    const error = checkRequest(header, this.#export);
    if (error !== 0) {
      const reply = encodeSimpleReply(cookie, error);
      this.#state = { kind: 'discard', reply, remaining: length };
      return undefined;
    }
    const fua = (header.flags & NBD_COMMAND_FLAG.fua) !== 0;
    const whole = this.#take(length);
    if (whole !== undefined) {
      const request: NbdRequest = { kind: 'write', cookie, offset, length, data: whole, fua };
      return { kind: 'request', request };
    }
    const data = this.#allocate(length);
    const request: WriteRequest = { kind: 'write', cookie, offset, length, data, fua };
    this.#state = { kind: 'payload', request, filled: 0 };
    return undefined;
  }

  #payload(state: Extract<State, { kind: 'payload' }>): NbdInstruction | undefined {
    const { request } = state;
    const part = Math.min(this.unreadBytes, request.length - state.filled);
    this.#bytes.copy(request.data, state.filled, this.#position, this.#position + part);
    this.#position += part;
    state.filled += part;
    if (state.filled < request.length) return undefined;
    this.#state = { kind: 'request' };
    return { kind: 'request', request };
  }

  #discard(state: Extract<State, { kind: 'discard' }>): NbdInstruction | undefined {
    const part = Math.min(this.unreadBytes, state.remaining);
    this.#position += part;
    state.remaining -= part;
    if (state.remaining > 0) return undefined;
    this.#state = { kind: 'request' };
    return { kind: 'send', bytes: state.reply };
  }
}

function transmissionFlags(info: NbdExportInfo): number {
  const flag = NBD_TRANSMISSION_FLAG;
  return (
    flag.hasFlags |
    flag.sendFlush |
    flag.sendFua |
    flag.sendTrim |
    flag.sendWriteZeroes |
    (info.readOnly ? flag.readOnly : 0)
  );
}

/** Undefined for malformed data, which proto.md wants answered, not disconnected. */
function readInfoRequest(data: Buffer): { name: string; wanted: number[] } | undefined {
  try {
    return decodeInfoRequest(data);
  } catch (error) {
    if (error instanceof ProtocolError) return undefined;
    throw error;
  }
}

/** Flags each command may carry; FUA is accepted on all, as proto.md demands. */
const FLAGS_ALLOWED: Readonly<Record<number, number>> = {
  [NBD_COMMAND.read]: NBD_COMMAND_FLAG.fua,
  [NBD_COMMAND.write]: NBD_COMMAND_FLAG.fua,
  [NBD_COMMAND.flush]: NBD_COMMAND_FLAG.fua,
  [NBD_COMMAND.trim]: NBD_COMMAND_FLAG.fua,
  [NBD_COMMAND.writeZeroes]: NBD_COMMAND_FLAG.fua | NBD_COMMAND_FLAG.noHole,
};

/** The error to answer with, or 0. CACHE and unknown commands are EINVAL. */
function checkRequest(header: NbdRequestHeader, info: NbdExportInfo): NbdError | 0 {
  const { command, offset, length } = header;
  const allowed = FLAGS_ALLOWED[command];
  if (allowed === undefined || (header.flags & ~allowed) !== 0) return NBD_ERROR.EINVAL;
  if (command === NBD_COMMAND.flush) {
    return offset === 0 && length === 0 ? 0 : NBD_ERROR.EINVAL;
  }
  const writes = command !== NBD_COMMAND.read;
  if (writes && info.readOnly) return NBD_ERROR.EPERM;
  if (offset + length > info.sizeBytes) {
    return writes && command !== NBD_COMMAND.trim ? NBD_ERROR.ENOSPC : NBD_ERROR.EINVAL;
  }
  if (command === NBD_COMMAND.read && length > NBD_PAYLOAD_BYTES_MAX) return NBD_ERROR.EINVAL;
  return 0;
}

function toRequest(header: NbdRequestHeader): NbdRequest {
  const { cookie, offset, length } = header;
  const fua = (header.flags & NBD_COMMAND_FLAG.fua) !== 0;
  switch (header.command) {
    case NBD_COMMAND.read:
      return { kind: 'read', cookie, offset, length };
    case NBD_COMMAND.flush:
      return { kind: 'flush', cookie };
    case NBD_COMMAND.trim:
      return { kind: 'trim', cookie, offset, length, fua };
    default: {
      const mayTrim = (header.flags & NBD_COMMAND_FLAG.noHole) === 0;
      return { kind: 'writeZeroes', cookie, offset, length, mayTrim, fua };
    }
  }
}
