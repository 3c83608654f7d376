/**
 * A TCP connection that both guests opened since the last checkpoint, each with its own initial
 * sequence number and timestamps: what the secondary must know to translate between them.
 *
 * The primary's comparer sees both SYNs (or SYN-ACKs) and releases the PVM's when the secondary has
 * said that it has the record; so the translation is known before anybody can answer to it.
 *
 *     field         offset  size  order       meaning                          limit
 *     key           0       44    big-endian  see flow-key-wire.ts             a TCP flow
 *     primaryIsn    44      4     big-endian  PVM's initial sequence number    -
 *     secondaryIsn  48      4     big-endian  SVM's initial sequence number    -
 *     timestamps    52      1     -           1: the SYNs carry timestamps     0 or 1
 *     primary       53      4     big-endian  TSval of the PVM's SYN           0 without timestamps
 *     secondary     57      4     big-endian  TSval of the SVM's SYN           0 without timestamps
 */
import { ByteReader, ByteWriter, ProtocolError } from '../lib/index.js';
import { readFlowKey, writeFlowKey } from './flow-key-wire.js';

export interface OpenedFlow {
  /** The flow's key, 11 words: see packet.ts. Owned by the record. */
  readonly key: Int32Array;
  /** Initial sequence numbers of the PVM (what the remote end knows) and of the SVM. */
  readonly primaryIsn: number;
  readonly secondaryIsn: number;
  /** TSval of the two SYNs; undefined when the SYNs carry no timestamps. */
  readonly timestamps: { readonly primary: number; readonly secondary: number } | undefined;
}

/** Bytes of an encoded `OpenedFlow`. */
export const OPENED_FLOW_BYTES = 61;

export function encodeOpenedFlow(flow: OpenedFlow): Buffer {
  const writer = new ByteWriter(OPENED_FLOW_BYTES);
  writeFlowKey(writer, flow.key);
  return writer
    .uint32(flow.primaryIsn)
    .uint32(flow.secondaryIsn)
    .uint8(flow.timestamps === undefined ? 0 : 1)
    .uint32(flow.timestamps?.primary ?? 0)
    .uint32(flow.timestamps?.secondary ?? 0)
    .finish();
}

/** The record shares no memory with `bytes`. Throws `ProtocolError` for anything illegal. */
export function decodeOpenedFlow(bytes: Buffer): OpenedFlow {
  const reader = new ByteReader(bytes);
  const key = readFlowKey(reader);
  const primaryIsn = reader.uint32();
  const secondaryIsn = reader.uint32();
  const present = reader.uint8();
  const primary = reader.uint32();
  const secondary = reader.uint32();
  reader.end();
  if (present > 1) throw new ProtocolError(`Timestamps of an opened flow are marked ${present}`);
  if (present === 0 && (primary !== 0 || secondary !== 0)) {
    throw new ProtocolError('An opened flow has timestamps that are marked as absent');
  }
  const timestamps = present === 1 ? { primary, secondary } : undefined;
  return { key, primaryIsn, secondaryIsn, timestamps };
}
