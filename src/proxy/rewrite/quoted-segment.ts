/**
 * The TCP segment that an ICMP error quotes: which connection of the guest the error is about, and
 * where the quoted sequence number lies. Errors come from anywhere on the path, so only the quoted
 * addresses tell.
 *
 * In: a packet of kind datagram that goes to the guest. Out: the guest's own segment, as the remote
 * saw it, or nothing: no error, another protocol, or too little quoted. What matters is in the
 * first 8 bytes of the segment, which every sender quotes (RFC 792); the rest may be cut.
 * An IPv6 quote with extension headers is left alone: hosts send no TCP in them.
 *
 * Sources: RFC 792, RFC 1122 section 3.2.2, RFC 4443 sections 2.4 and 3.
 */
import {
  FLOW_KEY_WORDS,
  hashKey,
  type Packet,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
} from '../packet.js';

const ICMP_HEADER_BYTES = 8;
/** Destination unreachable, source quench, time exceeded, parameter problem. */
const ICMP_ERRORS: readonly number[] = [3, 4, 11, 12];
/** ICMPv6 keeps its errors below 128; those defined are 1 to 4. */
const ICMPV6_ERROR_LAST = 4;
const TCP_QUOTED_BYTES_MIN = 8;

export class QuotedSegment {
  readonly key = new Int32Array(FLOW_KEY_WORDS);
  hash = 0;
  /** Offset of the error's own checksum. */
  errorChecksumAt = 0;
  /** Offset of the quoted TCP header, and the end of what is quoted. */
  transportAt = 0;
  end = 0;

  /** Looks into `packet`, which is of kind datagram; false: it quotes no segment. */
  parse(bytes: Buffer, packet: Packet): boolean {
    const { protocol, transportAt } = packet;
    if (protocol !== PROTOCOL_ICMP && protocol !== PROTOCOL_ICMPV6) return false;
    const quoteAt = transportAt + ICMP_HEADER_BYTES;
    if (quoteAt >= packet.end) return false;
    this.errorChecksumAt = transportAt + 2;
    this.end = packet.end;
    this.key.fill(0);
    // The guest's VLAN is that of the error: both travel on the guest's own network.
    this.key[1] = packet.key[1] as number;
    const type = bytes.readUInt8(transportAt);
    const found =
      protocol === PROTOCOL_ICMP
        ? ICMP_ERRORS.includes(type) && this.#parseIpv4(bytes, quoteAt)
        : type >= 1 && type <= ICMPV6_ERROR_LAST && this.#parseIpv6(bytes, quoteAt);
    if (found) this.hash = hashKey(this.key);
    return found;
  }

  #parseIpv4(bytes: Buffer, at: number): boolean {
    if (this.end - at < 20) return false;
    const first = bytes.readUInt8(at);
    const headerBytes = (first & 15) * 4;
    if (first >> 4 !== 4 || headerBytes < 20 || bytes.readUInt8(at + 9) !== PROTOCOL_TCP) {
      return false;
    }
    // A later fragment begins with no TCP header.
    if ((bytes.readUInt16BE(at + 6) & 0x1fff) !== 0) return false;
    this.key[3] = bytes.readInt32BE(at + 12);
    this.key[7] = bytes.readInt32BE(at + 16);
    return this.#parsePorts(bytes, 4, at + headerBytes);
  }

  #parseIpv6(bytes: Buffer, at: number): boolean {
    if (this.end - at < 40 || bytes.readUInt8(at) >> 4 !== 6) return false;
    if (bytes.readUInt8(at + 6) !== PROTOCOL_TCP) return false;
    for (let word = 0; word < 4; word++) {
      this.key[3 + word] = bytes.readInt32BE(at + 8 + word * 4);
      this.key[7 + word] = bytes.readInt32BE(at + 24 + word * 4);
    }
    return this.#parsePorts(bytes, 6, at + 40);
  }

  /** The guest sent the quoted segment: its port is the source. */
  #parsePorts(bytes: Buffer, version: 4 | 6, at: number): boolean {
    if (this.end - at < TCP_QUOTED_BYTES_MIN) return false;
    this.key[0] = (version << 8) | PROTOCOL_TCP;
    this.key[2] = bytes.readInt32BE(at);
    this.transportAt = at;
    return true;
  }
}
