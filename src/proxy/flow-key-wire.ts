/**
 * The key of a TCP flow in messages between the hosts: 11 words of packet.ts, big-endian, 44 bytes.
 * Checked for what no frame of a TCP segment can give.
 */
import { assert, type ByteReader, type ByteWriter, ProtocolError } from '../lib/index.js';
import { FLOW_KEY_WORDS, PROTOCOL_TCP } from './packet.js';

const KEY_IPV4_TCP = (4 << 8) | PROTOCOL_TCP;
const KEY_IPV6_TCP = (6 << 8) | PROTOCOL_TCP;
/** Two VLAN identifiers of 12 bits. */
const KEY_VLAN_MAX = 0xff_ffff;
/** Words of an IPv6 address that an IPv4 address leaves zero. */
const KEY_IPV4_ZEROS = [4, 5, 6, 8, 9, 10] as const;

export function writeFlowKey(writer: ByteWriter, key: Int32Array): void {
  assert(key.length === FLOW_KEY_WORDS, `A flow key of ${key.length} words`);
  for (const word of key) writer.uint32(word >>> 0);
}

/** The key shares no memory with the reader's bytes. Throws `ProtocolError`. */
export function readFlowKey(reader: ByteReader): Int32Array {
  const key = new Int32Array(FLOW_KEY_WORDS);
  for (let word = 0; word < FLOW_KEY_WORDS; word++) key[word] = reader.uint32();
  const [protocol = 0, vlan = 0] = key;
  if (protocol !== KEY_IPV4_TCP && protocol !== KEY_IPV6_TCP) {
    throw new ProtocolError(`A flow is of protocol ${protocol}, not of TCP`);
  }
  if (vlan < 0 || vlan > KEY_VLAN_MAX) {
    throw new ProtocolError(`A flow has VLAN tags ${vlan >>> 0}`);
  }
  if (protocol === KEY_IPV4_TCP && KEY_IPV4_ZEROS.some((word) => key[word] !== 0)) {
    throw new ProtocolError('A flow has an IPv4 address longer than 4 bytes');
  }
  return key;
}
