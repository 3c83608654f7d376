/**
 * What client and server agree on before requests: the options of NBD's handshake.
 *
 * In: one option after the other, whole. Out: the replies to it, and whether the client has chosen
 * an export, or said goodbye, or may send more. Nothing is remembered but what was agreed.
 *
 *   EXPORT_NAME, GO        choose an export; INFO only asks about one
 *   LIST                   names of the exports
 *   STRUCTURED_REPLY       reads are answered in chunks; needed for metadata contexts
 *   LIST/SET_META_CONTEXT  `base:allocation` only: where holes are
 *   ABORT                  goodbye
 *   everything else        NBD_REP_ERR_UNSUP, STARTTLS among them; the client goes on without
 *
 * Malformed data of an option is answered, as proto.md wants it. Only EXPORT_NAME, which has no way
 * to refuse, ends the connection (ProtocolError).
 *
 * Source: NBD doc/proto.md, "Fixed newstyle negotiation", "Metadata querying".
 */
import { ProtocolError } from '../lib/index.js';
import { NBD_NAME_BYTES_MAX } from './limits.js';
import {
  BASE_ALLOCATION,
  BASE_ALLOCATION_ID,
  decodeInfoRequest,
  decodeMetaContextRequest,
  encodeExportNameReply,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoName,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerName,
  NBD_INFO,
  NBD_OPTION,
  NBD_REPLY,
  NBD_TRANSMISSION_FLAG,
} from './nbd-wire.js';

/** What the server must know of an export. */
export interface NbdExportInfo {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

/** What all requests of a connection are about, and how they are answered. */
export interface NbdAgreement {
  readonly name: string;
  readonly info: NbdExportInfo;
  /** Replies to reads and block status are chunks. */
  readonly structured: boolean;
  /** The client may ask where the holes are. */
  readonly blockStatus: boolean;
}

export interface NbdAnswer {
  readonly replies: Buffer[];
  readonly outcome: 'more' | 'end' | NbdAgreement;
}

export class NbdNegotiation {
  readonly #exports: ReadonlyMap<string, NbdExportInfo>;
  /** The client takes the answer to EXPORT_NAME without its padding. */
  noZeroes = false;
  #structured = false;
  /** The export that the client has set `base:allocation` for; contexts belong to one export. */
  #blockStatusOf: string | undefined;

  /** `exports` is looked at when a client chooses; the empty name means the only export. */
  constructor(exports: ReadonlyMap<string, NbdExportInfo>) {
    this.#exports = exports;
  }

  /** Throws ProtocolError for an EXPORT_NAME that can not be served. */
  answer(option: number, data: Buffer): NbdAnswer {
    switch (option) {
      case NBD_OPTION.exportName:
        return this.#exportName(data);
      case NBD_OPTION.abort:
        return { replies: [encodeOptionReply(option, NBD_REPLY.ack)], outcome: 'end' };
      case NBD_OPTION.list:
        return more(this.#list(data));
      case NBD_OPTION.info:
      case NBD_OPTION.go:
        return this.#info(option, data);
      case NBD_OPTION.structuredReply:
        if (data.length > 0) return refuse(option, NBD_REPLY.errorInvalid);
        this.#structured = true;
        return more([encodeOptionReply(option, NBD_REPLY.ack)]);
      case NBD_OPTION.listMetaContext:
      case NBD_OPTION.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return refuse(option, NBD_REPLY.errorUnsupported);
    }
  }

  #find(name: string): { name: string; info: NbdExportInfo } | undefined {
    const info = this.#exports.get(name);
    if (info !== undefined) return { name, info };
    const [only, another] = this.#exports;
    if (name !== '' || only === undefined || another !== undefined) return undefined;
    return { name: only[0], info: only[1] };
  }

  #agree({ name, info }: { name: string; info: NbdExportInfo }): NbdAgreement {
    const structured = this.#structured;
    return { name, info, structured, blockStatus: this.#blockStatusOf === name };
  }

  /** EXPORT_NAME can not be refused with words: an unknown name ends the connection. */
  #exportName(data: Buffer): NbdAnswer {
    if (data.length > NBD_NAME_BYTES_MAX) {
      throw new ProtocolError(`An NBD export name of ${data.length} bytes is too long`);
    }
    const name = data.toString('utf8');
    const found = this.#find(name);
    if (found === undefined) {
      throw new ProtocolError(`No NBD export is named ${JSON.stringify(name.slice(0, 80))}`);
    }
    const flags = transmissionFlags(found.info, this.#structured);
    const { noZeroes } = this;
    const bytes = encodeExportNameReply(found.info.sizeBytes, flags, { noZeroes });
    return { replies: [bytes], outcome: this.#agree(found) };
  }

  #list(data: Buffer): Buffer[] {
    if (data.length > 0) return [encodeOptionReply(NBD_OPTION.list, NBD_REPLY.errorInvalid)];
    const names = [...this.#exports.keys()].map((name) =>
      encodeOptionReply(NBD_OPTION.list, NBD_REPLY.server, encodeServerName(name)),
    );
    return [...names, encodeOptionReply(NBD_OPTION.list, NBD_REPLY.ack)];
  }

  #info(option: number, data: Buffer): NbdAnswer {
    const wish = orUndefined(() => decodeInfoRequest(data));
    if (wish === undefined) return refuse(option, NBD_REPLY.errorInvalid);
    const found = this.#find(wish.name);
    if (found === undefined) return refuse(option, NBD_REPLY.errorUnknown);
    const flags = transmissionFlags(found.info, this.#structured);
    const infos = [encodeInfoExport(found.info.sizeBytes, flags)];
    if (wish.wanted.includes(NBD_INFO.name)) infos.push(encodeInfoName(found.name));
    if (wish.wanted.includes(NBD_INFO.blockSize)) infos.push(encodeInfoBlockSize());
    const replies = [
      ...infos.map((info) => encodeOptionReply(option, NBD_REPLY.info, info)),
      encodeOptionReply(option, NBD_REPLY.ack),
    ];
    return { replies, outcome: option === NBD_OPTION.go ? this.#agree(found) : 'more' };
  }

  #metaContext(option: number, data: Buffer): NbdAnswer {
    const wish = orUndefined(() => decodeMetaContextRequest(data));
    const sets = option === NBD_OPTION.setMetaContext;
    // What was set before is void as soon as the client sets anew.
    if (sets) this.#blockStatusOf = undefined;
    if (wish === undefined || !this.#structured) return refuse(option, NBD_REPLY.errorInvalid);
    const found = this.#find(wish.name);
    if (found === undefined) return refuse(option, NBD_REPLY.errorUnknown);
    const lists = !sets && (wish.queries.length === 0 || wish.queries.includes('base:'));
    const replies = [encodeOptionReply(option, NBD_REPLY.ack)];
    if (lists || wish.queries.includes(BASE_ALLOCATION)) {
      if (sets) this.#blockStatusOf = found.name;
      const context = encodeMetaContext(BASE_ALLOCATION_ID, BASE_ALLOCATION);
      replies.unshift(encodeOptionReply(option, NBD_REPLY.metaContext, context));
    }
    return more(replies);
  }
}

function more(replies: Buffer[]): NbdAnswer {
  return { replies, outcome: 'more' };
}

function refuse(option: number, reply: number): NbdAnswer {
  return more([encodeOptionReply(option, reply)]);
}

function transmissionFlags(info: NbdExportInfo, structured: boolean): number {
  const flag = NBD_TRANSMISSION_FLAG;
  return (
    flag.hasFlags |
    flag.sendFlush |
    flag.sendFua |
    flag.sendTrim |
    flag.sendWriteZeroes |
    // All connections of an export share its layers: what one has written the others read, and a
    // flush on any of them is a sync of the image, which covers what all have written.
    flag.canMultiConn |
    (structured ? flag.sendDf : 0) |
    (info.readOnly ? flag.readOnly : 0)
  );
}

/** Undefined for malformed data, which proto.md wants answered, not disconnected. */
function orUndefined<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch (error) {
    if (error instanceof ProtocolError) return undefined;
    throw error;
  }
}
