/**
 * Which flow the later fragments of an IP packet belong to: only the first one has the ports.
 *
 * A bounded map from addresses, protocol and identification to the key's port word. A place is
 * taken over by whoever comes later; a fragment whose first one is not remembered, or came later,
 * has port word 0, and so all such fragments between two hosts are one flow.
 */
import {
  FLOW_KEY_WORDS,
  type Packet,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_UDP,
} from '../packet.js';
import { FRAGMENTED_PACKETS_MAX } from './limits.js';

/** Key, identification, port word. */
const ENTRY_WORDS = FLOW_KEY_WORDS + 2;

export class FragmentMap {
  readonly #entries = new Int32Array(FRAGMENTED_PACKETS_MAX * ENTRY_WORDS);

  /** The port word for a fragment; `packet.key` still has none. */
  portsOf(bytes: Buffer, packet: Packet): number {
    const { key, fragmentId } = packet;
    const slot = (packet.hash ^ Math.imul(fragmentId, 0x9e37_79b1)) >>> 24;
    const at = (slot % FRAGMENTED_PACKETS_MAX) * ENTRY_WORDS;
    const entries = this.#entries;
    if (packet.fragmentOffset > 0) {
      if (entries[at + FLOW_KEY_WORDS] !== (fragmentId | 0)) return 0;
      for (let word = 0; word < FLOW_KEY_WORDS; word++) {
        if (entries[at + word] !== key[word]) return 0;
      }
      return entries[at + FLOW_KEY_WORDS + 1] as number;
    }
    const ports = readPorts(bytes, packet);
    entries.set(key, at);
    entries[at + FLOW_KEY_WORDS] = fragmentId;
    entries[at + FLOW_KEY_WORDS + 1] = ports;
    return ports;
  }

  /** At a checkpoint the SVM becomes the PVM: it goes on with the same identifications. */
  copyFrom(other: FragmentMap): void {
    this.#entries.set(other.#entries);
  }
}

/** As `Packet` does for whole packets; the guest is the sender. */
function readPorts(bytes: Buffer, packet: Packet): number {
  const { protocol, payloadAt, end } = packet;
  if (end - payloadAt < 8) return 0;
  if (protocol === PROTOCOL_UDP) return bytes.readInt32BE(payloadAt);
  const type = bytes.readUInt8(payloadAt);
  const isEcho =
    protocol === PROTOCOL_ICMP ? type === 0 || type === 8 : type === 128 || type === 129;
  const hasIdentifier = protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMPV6;
  return hasIdentifier && isEcho ? bytes.readUInt16BE(payloadAt + 4) << 16 : 0;
}

/** Set in the key's protocol word: TCP in fragments is compared as datagrams, apart from streams. */
export const FRAGMENTED_TCP = 1 << 16;
