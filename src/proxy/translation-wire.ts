/**
 * Translations that outlive checkpoints: connections whose remote ends count in other numbers than
 * the guest does, since the host that they began with is gone. The next secondary must know them,
 * to take over in its turn.
 *
 *     remote's number = guest's number + offset, modulo 2^32
 *
 * A message is a list of records, each about one connection; a later one replaces an earlier one.
 *
 *     field            size  meaning                                          limit
 *     count            2     of the records that follow                       1 to 1,024
 *
 *     key              44    see flow-key-wire.ts                             a TCP flow
 *     kind             1     0: no longer translated, and nothing follows;    0 or 1
 *                            1: translated as follows
 *     isn known        1     1: the guest's initial sequence number is known  0 or 1
 *     isn              4     0 when it is not                                 -
 *     seq offset       4     0 when the isn is not known                      -
 *     timestamp offset 4     0 if only the isn is why this is here            isn or offset
 *     guest's FIN      1     0 none, 1 sent, 2 acknowledged                   0 to 2
 *     its end          4     remote's number one behind it; 0 without         -
 *     remote's FIN     1     as above                                         0 to 2
 *     its end          4     one behind it; 0 without                         -
 *
 * All big-endian.
 */
import { assert, ByteReader, ByteWriter, ProtocolError } from '../lib/index.js';
import { readFlowKey, writeFlowKey } from './flow-key-wire.js';
import { TRANSLATION_RECORDS_MAX } from './limits.js';

/** How far the end of one direction has come. */
export const FIN_NONE = 0;
export const FIN_SENT = 1;
export const FIN_ACKED = 2;
export type FinState = typeof FIN_NONE | typeof FIN_SENT | typeof FIN_ACKED;

/** What is translated of one connection; see the header. */
export interface TranslationState {
  /** The guest's own; undefined when the connection was older than the last checkpoint. */
  readonly isn: number | undefined;
  /** Remote's sequence numbers and TSvals minus the guest's, unsigned. */
  readonly seqOffset: number;
  readonly timestampOffset: number;
  readonly guestFin: FinState;
  readonly guestFinEnd: number;
  readonly remoteFin: FinState;
  readonly remoteFinEnd: number;
}

export interface TranslationRecord {
  /** 11 words: see packet.ts. Owned by the record. */
  readonly key: Int32Array;
  /** Undefined: no longer translated. */
  readonly state: TranslationState | undefined;
}

const RECORD_BYTES_MAX = 68;
const KIND_ENDED = 0;
const KIND_TRANSLATED = 1;

/** One message; at most `TRANSLATION_RECORDS_MAX` records. */
export function encodeTranslations(records: readonly TranslationRecord[]): Buffer {
  const { length } = records;
  assert(length > 0 && length <= TRANSLATION_RECORDS_MAX, `${length} translations in one message`);
  const writer = new ByteWriter(2 + length * RECORD_BYTES_MAX).uint16(length);
  for (const { key, state } of records) {
    writeFlowKey(writer, key);
    if (state === undefined) writer.uint8(KIND_ENDED);
    else writeState(writer.uint8(KIND_TRANSLATED), state);
  }
  return writer.finish();
}

/** The records share no memory with `bytes`. Throws `ProtocolError` for anything illegal. */
export function decodeTranslations(bytes: Buffer): TranslationRecord[] {
  const reader = new ByteReader(bytes);
  const count = reader.uint16();
  if (count === 0 || count > TRANSLATION_RECORDS_MAX) {
    throw new ProtocolError(
      `A message of ${count} translations, expected 1 to ${TRANSLATION_RECORDS_MAX}`,
    );
  }
  const records: TranslationRecord[] = [];
  for (let index = 0; index < count; index++) {
    const key = readFlowKey(reader);
    const kind = reader.uint8();
    if (kind > KIND_TRANSLATED) throw new ProtocolError(`A translation is of kind ${kind}`);
    records.push({ key, state: kind === KIND_ENDED ? undefined : readState(reader) });
  }
  reader.end();
  return records;
}

function writeState(writer: ByteWriter, state: TranslationState): void {
  writer
    .uint8(state.isn === undefined ? 0 : 1)
    .uint32(state.isn ?? 0)
    .uint32(state.seqOffset)
    .uint32(state.timestampOffset)
    .uint8(state.guestFin)
    .uint32(state.guestFinEnd)
    .uint8(state.remoteFin)
    .uint32(state.remoteFinEnd);
}

function readState(reader: ByteReader): TranslationState {
  const known = reader.uint8();
  if (known > 1) throw new ProtocolError(`The isn of a translation is marked ${known}`);
  const isn = reader.uint32();
  const seqOffset = reader.uint32();
  const timestampOffset = reader.uint32();
  if (known === 0 && (isn !== 0 || seqOffset !== 0)) {
    throw new ProtocolError('A translation has numbers that are marked as absent');
  }
  if (known === 0 && timestampOffset === 0) {
    throw new ProtocolError('A translation changes nothing');
  }
  const guestFin = readFinState(reader);
  const guestFinEnd = readFinEnd(reader, guestFin);
  const remoteFin = readFinState(reader);
  const remoteFinEnd = readFinEnd(reader, remoteFin);
  return {
    isn: known === 1 ? isn : undefined,
    seqOffset,
    timestampOffset,
    guestFin,
    guestFinEnd,
    remoteFin,
    remoteFinEnd,
  };
}

function readFinState(reader: ByteReader): FinState {
  const fin = reader.uint8();
  if (fin !== FIN_NONE && fin !== FIN_SENT && fin !== FIN_ACKED) {
    throw new ProtocolError(`The FIN of a translation is in state ${fin}`);
  }
  return fin;
}

function readFinEnd(reader: ByteReader, fin: FinState): number {
  const end = reader.uint32();
  if (fin === FIN_NONE && end !== 0) {
    throw new ProtocolError('A translation has the end of a FIN that is marked as absent');
  }
  return end;
}
