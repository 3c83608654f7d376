/**
 * The server's side of one NBD connection, without the socket.
 *
 * Bytes come in through `receive`, instructions go out through `next`, one at a time and only when
 * the caller asks: a caller that is at its bound of work in progress simply stops asking, and then
 * stops reading the socket. A request that comes out has been checked against the export: it lies
 * inside the disk, it is no write to a read-only one, its payload is there. Requests that fail
 * these checks are answered here (`send`), so the layers never see them.
 *
 * A large write comes out in parts, in order, so that it is carried out while the rest of it is
 * still on its way. A client that goes away in between leaves a write that was never answered, of
 * which a disk may hold any part.
 *
 *   greeting -> clientFlags -> optionHeader <-> optionData ->
 *   request <-> payload | references | discard -> ended
 *
 * Memory: what was received and not asked for, plus one write payload, allocated only after its
 * length has been checked.
 *
 * Malformed bytes throw ProtocolError from `next`; afterwards the session is over.
 */
import { ProtocolError, unreachable } from '../lib/index.js';
import {
  NBD_OPTION_BYTES_MAX,
  NBD_OPTIONS_MAX,
  NBD_PART_ALIGNMENT,
  NBD_PART_BYTES_MIN,
  NBD_PAYLOAD_BYTES_MAX,
} from './limits.js';
import { type NbdAgreement, type NbdExportInfo, NbdNegotiation } from './nbd-negotiation.js';
import { type ClientMemory, LentData, referencesLength } from './nbd-references.js';
import {
  decodeClientFlags,
  decodeOptionHeader,
  decodeRequest,
  encodeErrorChunk,
  encodeGreeting,
  encodeReadChunk,
  encodeSimpleReply,
  encodeStatusChunk,
  NBD_CLIENT_FLAGS_BYTES,
  NBD_COMMAND,
  NBD_COMMAND_FLAG,
  NBD_ERROR,
  NBD_OPTION_HEADER_BYTES,
  NBD_REQUEST_BYTES,
  type NbdError,
  type NbdOptionHeader,
  type NbdRequestHeader,
} from './nbd-wire.js';

/** A request to carry out and to answer with its cookie. Offsets and lengths lie in the export. */
export type NbdRequest =
  | {
      readonly kind: 'read';
      readonly cookie: bigint;
      offset: number;
      length: number;
      /** Answered by a chunk. */
      structured: boolean;
      /** The chunk may say which file has the data: nbd-references.ts. */
      mayRefer: boolean;
    }
  | {
      readonly kind: 'blockStatus';
      readonly cookie: bigint;
      offset: number;
      length: number;
      /** The client wants the first extent only. */
      one: boolean;
    }
  | {
      readonly kind: 'write';
      readonly cookie: bigint;
      offset: number;
      length: number;
      /** Never written to again by the session. */
      data: Buffer;
      fua: boolean;
      /** Of a large write, which is handed out in parts as they come. */
      readonly part?: WritePart;
    }
  | {
      readonly kind: 'lentWrite';
      readonly cookie: bigint;
      offset: number;
      length: number;
      /** Stay where they are until it is answered, or the client is gone. */
      data: LentData;
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

/** `whole`: the memory of all parts. Only the last one may have `fua`, and is answered. */
export interface WritePart {
  readonly whole: Buffer;
  readonly first: boolean;
  readonly last: boolean;
}

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
  | { readonly kind: 'payload'; readonly request: WriteRequest; filled: number; handedOut: number }
  | { readonly kind: 'references'; readonly header: NbdRequestHeader }
  | { readonly kind: 'discard'; readonly reply: Buffer; remaining: number }
  | { readonly kind: 'ended' };

export interface NbdSessionOptions {
  /** Memory for a payload that comes in pieces. Default: new memory. */
  readonly allocate?: (length: number) => Buffer;
  /** What a write may refer to. Default: nothing. */
  readonly memory?: (() => ClientMemory) | undefined;
  /** Whether the reply to a read may refer to a file. Default: no. */
  readonly lendsFiles?: boolean | undefined;
}

const NOTHING = Buffer.alloc(0);
const NOTHING_AGREED: NbdAgreement = {
  name: '',
  info: { sizeBytes: 0, readOnly: true },
  structured: false,
  blockStatus: false,
};

export class NbdSession {
  readonly #negotiation: NbdNegotiation;
  readonly #allocate: (length: number) => Buffer;
  readonly #memory: (() => ClientMemory) | undefined;
  readonly #lendsFiles: boolean;
  #agreed: NbdAgreement = NOTHING_AGREED;
  #state: State = { kind: 'greeting' };
  #bytes: Buffer = NOTHING;
  #position = 0;
  #options = 0;
  #lent = 0;
  #queue: NbdInstruction[] = [];

  /** `exports` is looked at when a client chooses; the empty name means the only export. */
  constructor(exports: ReadonlyMap<string, NbdExportInfo>, options: NbdSessionOptions = {}) {
    this.#negotiation = new NbdNegotiation(exports);
    this.#allocate = options.allocate ?? Buffer.allocUnsafeSlow;
    this.#memory = options.memory;
    this.#lendsFiles = options.lendsFiles ?? false;
  }

  /** Received bytes that `next` has not consumed yet. */
  get unreadBytes(): number {
    return this.#bytes.length - this.#position;
  }

  /** Writes so far whose data are a part of what was received. */
  get lent(): number {
    return this.#lent;
  }

  /** True once an export has been chosen. */
  get negotiated(): boolean {
    const kind = this.#state.kind;
    return /^(request|payload|references|discard)$/.test(kind);
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

  /** `chunk` must not change before it has been read and every write that was lent a part is done. */
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
        this.#negotiation.noZeroes = decodeClientFlags(bytes).noZeroes;
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
      case 'references':
        return this.#references(state.header);
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
    const { replies, outcome } = this.#negotiation.answer(option, data);
    if (outcome === 'end') this.#end();
    for (const bytes of replies) this.#queue.push({ kind: 'send', bytes });
    if (outcome === 'more') return;
    if (outcome === 'end') {
      this.#queue.push({ kind: 'end' });
      return;
    }
    this.#agreed = outcome;
    this.#state = { kind: 'request' };
    this.#queue.push({ kind: 'attach', name: outcome.name });
  }

  #request(): NbdInstruction | undefined {
    if (this.unreadBytes < NBD_REQUEST_BYTES) return undefined;
    const asked = decodeRequest(this.#bytes, this.#position);
    this.#position += NBD_REQUEST_BYTES;
    const refers = this.#mayRefer(asked);
    const header = refers ? withoutReference(asked) : asked;
    if (header.command === NBD_COMMAND.write) return this.#writeRequest(header, refers);
    if (header.command === NBD_COMMAND.disconnect) {
      this.#end();
      return { kind: 'end' };
    }
    const error = checkRequest(header, this.#agreed);
    if (error === 0) return { kind: 'request', request: toRequest(header, this.#agreed, refers) };
    const { cookie, command } = header;
    const asks = command === NBD_COMMAND.read || command === NBD_COMMAND.blockStatus;
    const chunk = asks && this.#agreed.structured;
    const bytes = chunk ? encodeErrorChunk(cookie, error) : encodeSimpleReply(cookie, error);
    return { kind: 'send', bytes };
  }

  /** Where we do not know the flag, it is as unknown as any other. */
  #mayRefer({ command, flags }: NbdRequestHeader): boolean {
    if ((flags & NBD_COMMAND_FLAG.reference) === 0) return false;
    if (command === NBD_COMMAND.write) return this.#memory !== undefined;
    return command === NBD_COMMAND.read && this.#lendsFiles && this.#agreed.structured;
  }

  #writeRequest(header: NbdRequestHeader, refers: boolean): NbdInstruction | undefined {
    const { cookie, offset, length } = header;
    if (length > NBD_PAYLOAD_BYTES_MAX) {
      throw new ProtocolError(
        `An NBD write of ${length} bytes exceeds the limit of ${NBD_PAYLOAD_BYTES_MAX}`,
      );
    }
    if (refers) {
      this.#state = { kind: 'references', header };
      return undefined;
    }
    const error = checkRequest(header, this.#agreed);
    if (error !== 0) {
      const reply = encodeSimpleReply(cookie, error);
      this.#state = { kind: 'discard', reply, remaining: length };
      return undefined;
    }
    const fua = (header.flags & NBD_COMMAND_FLAG.fua) !== 0;
    const whole = this.#take(length);
    if (whole !== undefined) {
      this.#lent += 1;
      const request: NbdRequest = { kind: 'write', cookie, offset, length, data: whole, fua };
      return { kind: 'request', request };
    }
    const data = this.#allocate(length);
    const request: WriteRequest = { kind: 'write', cookie, offset, length, data, fua };
    this.#state = { kind: 'payload', request, filled: 0, handedOut: 0 };
    return undefined;
  }

  #payload(state: Extract<State, { kind: 'payload' }>): NbdInstruction | undefined {
    const { request } = state;
    const part = Math.min(this.unreadBytes, request.length - state.filled);
    this.#bytes.copy(request.data, state.filled, this.#position, this.#position + part);
    this.#position += part;
    state.filled += part;
    const from = state.handedOut;
    const last = state.filled === request.length;
    const end = last ? request.length : partEnd(request.offset, state.filled);
    if (!last && end - from < NBD_PART_BYTES_MIN) return undefined;
    state.handedOut = end;
    if (last) this.#state = { kind: 'request' };
    if (last && from === 0) return { kind: 'request', request };
    const { cookie, offset, data, fua } = request;
    return {
      kind: 'request',
      request: {
        ...{ kind: 'write', cookie, offset: offset + from, length: end - from },
        ...{ data: data.subarray(from, end), fua: last && fua },
        part: { whole: data, first: from === 0, last },
      },
    };
  }

  #references(header: NbdRequestHeader): NbdInstruction | undefined {
    const length = referencesLength(this.#bytes, this.#position);
    const references = length === undefined ? undefined : this.#take(length);
    if (references === undefined) return undefined;
    this.#state = { kind: 'request' };
    const { cookie, offset } = header;
    const error = checkRequest(header, this.#agreed);
    if (error !== 0) return { kind: 'send', bytes: encodeSimpleReply(cookie, error) };
    const memory = (this.#memory as () => ClientMemory)();
    const data = LentData.of(references, memory, header.length);
    const fua = (header.flags & NBD_COMMAND_FLAG.fua) !== 0;
    const request: NbdRequest = {
      kind: 'lentWrite',
      cookie,
      offset,
      length: data.length,
      data,
      fua,
    };
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

function withoutReference(header: NbdRequestHeader): NbdRequestHeader {
  return { ...header, flags: header.flags & ~NBD_COMMAND_FLAG.reference };
}

/** How much of what has come is whole blocks of the disk. */
function partEnd(offset: number, filled: number): number {
  return filled - ((offset + filled) % NBD_PART_ALIGNMENT);
}

/**
 * What stands before the `dataBytes` bytes of a reply, or is all of it. Once structured replies are
 * agreed on, reads and block status are answered by a chunk; for the rest a simple reply will do.
 */
export function encodeReplyHead(
  request: NbdRequest,
  error: NbdError | 0,
  dataBytes: number,
): Buffer {
  const { kind, cookie } = request;
  if (kind !== 'blockStatus' && !(kind === 'read' && request.structured)) {
    return encodeSimpleReply(cookie, error);
  }
  if (error !== 0) return encodeErrorChunk(cookie, error);
  if (kind === 'blockStatus') return encodeStatusChunk(cookie, dataBytes);
  return encodeReadChunk(cookie, { offset: request.offset, length: dataBytes });
}

/** Flags each command may carry; FUA is accepted on all, as proto.md demands. */
const FLAGS_ALLOWED: Readonly<Record<number, number>> = {
  [NBD_COMMAND.read]: NBD_COMMAND_FLAG.fua | NBD_COMMAND_FLAG.dontFragment,
  [NBD_COMMAND.write]: NBD_COMMAND_FLAG.fua,
  [NBD_COMMAND.flush]: NBD_COMMAND_FLAG.fua,
  [NBD_COMMAND.trim]: NBD_COMMAND_FLAG.fua,
  [NBD_COMMAND.writeZeroes]: NBD_COMMAND_FLAG.fua | NBD_COMMAND_FLAG.noHole,
  [NBD_COMMAND.blockStatus]: NBD_COMMAND_FLAG.fua | NBD_COMMAND_FLAG.requestOne,
};

/** The error to answer with, or 0. CACHE, RESIZE and unknown commands are EINVAL. */
function checkRequest(header: NbdRequestHeader, agreed: NbdAgreement): NbdError | 0 {
  const { command, offset, length } = header;
  const { info } = agreed;
  const allowed = FLAGS_ALLOWED[command];
  if (allowed === undefined || (header.flags & ~allowed) !== 0) return NBD_ERROR.EINVAL;
  if (command === NBD_COMMAND.flush) {
    return offset === 0 && length === 0 ? 0 : NBD_ERROR.EINVAL;
  }
  const asks = command === NBD_COMMAND.read || command === NBD_COMMAND.blockStatus;
  if (!asks && info.readOnly) return NBD_ERROR.EPERM;
  if (offset + length > info.sizeBytes) {
    return asks || command === NBD_COMMAND.trim ? NBD_ERROR.EINVAL : NBD_ERROR.ENOSPC;
  }
  if (command === NBD_COMMAND.read && length > NBD_PAYLOAD_BYTES_MAX) return NBD_ERROR.EINVAL;
  if (command === NBD_COMMAND.blockStatus && (length === 0 || !agreed.blockStatus)) {
    return NBD_ERROR.EINVAL;
  }
  const fragments = (header.flags & NBD_COMMAND_FLAG.dontFragment) === 0;
  return fragments || agreed.structured ? 0 : NBD_ERROR.EINVAL;
}

function toRequest(header: NbdRequestHeader, agreed: NbdAgreement, mayRefer: boolean): NbdRequest {
  const { cookie, offset, length } = header;
  const fua = (header.flags & NBD_COMMAND_FLAG.fua) !== 0;
  switch (header.command) {
    case NBD_COMMAND.read:
      return { kind: 'read', cookie, offset, length, structured: agreed.structured, mayRefer };
    case NBD_COMMAND.trim:
      return { kind: 'trim', cookie, offset, length, fua };
    case NBD_COMMAND.writeZeroes: {
      const mayTrim = (header.flags & NBD_COMMAND_FLAG.noHole) === 0;
      return { kind: 'writeZeroes', cookie, offset, length, mayTrim, fua };
    }
    case NBD_COMMAND.blockStatus: {
      const one = (header.flags & NBD_COMMAND_FLAG.requestOne) !== 0;
      return { kind: 'blockStatus', cookie, offset, length, one };
    }
    default:
      return { kind: 'flush', cookie };
  }
}
