/**
 * A TCP connection that both guests opened since the last checkpoint, each with its own initial
 * sequence number and timestamps: what the secondary must know to translate between them.
 *
 * The primary's comparer sees both SYNs (or SYN-ACKs) and tells the secondary before it releases
 * the PVM's; so the translation is known before the first answer to it can arrive.
 *
 *     field         offset  size  order       meaning                          limit
 *     key           0       44    big-endian  11 words, see packet.ts          a TCP flow
 *     primaryIsn    44      4     big-endian  PVM's initial sequence number    -
 *     secondaryIsn  48      4     big-endian  SVM's initial sequence number    -
 *     timestamps    52      1     -           1: the SYNs carry timestamps     0 or 1
 *     primary       53      4     big-endian  TSval of the PVM's SYN           0 without timestamps
 *     secondary     57      4     big-endian  TSval of the SVM's SYN           0 without timestamps
 */
import { assert, ByteReader, ByteWriter, ProtocolError } from '../lib/index.js';
import { FLOW_KEY_WORDS, PROTOCOL_TCP } from './packet.js';

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

const KEY_IPV4_TCP = (4 << 8) | PROTOCOL_TCP;
const KEY_IPV6_TCP = (6 << 8) | PROTOCOL_TCP;
/** Two VLAN identifiers of 12 bits. */
const KEY_VLAN_MAX = 0xff_ffff;
/** Words of an IPv6 address that an IPv4 address leaves zero. */
const KEY_IPV4_ZEROS = [4, 5, 6, 8, 9, 10] as const;

export function encodeOpenedFlow(flow: OpenedFlow): Buffer {
  assert(flow.key.length === FLOW_KEY_WORDS, `A flow key of ${flow.key.length} words`);
  const writer = new ByteWriter(OPENED_FLOW_BYTES);
  for (const word of flow.key) writer.uint32(word >>> 0);
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
  const key = new Int32Array(FLOW_KEY_WORDS);
  for (let word = 0; word < FLOW_KEY_WORDS; word++) key[word] = reader.uint32();
  checkKey(key);
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

function checkKey(key: Int32Array): void {
  const [protocol = 0, vlan = 0] = key;
  if (protocol !== KEY_IPV4_TCP && protocol !== KEY_IPV6_TCP) {
    throw new ProtocolError(`An opened flow is of protocol ${protocol}, not of TCP`);
  }
  if (vlan < 0 || vlan > KEY_VLAN_MAX) {
    throw new ProtocolError(`An opened flow has VLAN tags ${vlan >>> 0}`);
  }
  if (protocol === KEY_IPV4_TCP && KEY_IPV4_ZEROS.some((word) => key[word] !== 0)) {
    throw new ProtocolError('An opened flow has an IPv4 address longer than 4 bytes');
  }
}
