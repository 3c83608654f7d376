/**
 * What compare and rewrite must know about one Ethernet frame: where its parts lie and to which
 * flow it belongs. One `Packet` is filled again and again, so that looking at a frame allocates
 * nothing; the bytes themselves stay where they are.
 *
 * In: any bytes. Out: one of four kinds. What can't be understood in full is `opaque`, never an
 * error: a guest may say what it likes, and opaque frames are compared whole.
 *
 *     opaque     ARP, neighbour discovery, LLDP, malformed, unknown: the frame is the unit
 *     datagram   UDP, ICMP and every other IP protocol: `payloadAt` to `end` is the unit
 *     fragment   part of an IP packet: `payloadAt` to `end`, at `fragmentOffset`
 *     tcp        a segment
 *
 * The flow key is 11 words and names the guest first, whichever side sent the frame, so that both
 * directions of a connection have one key:
 *
 *     word 0      IP version << 8 | protocol (0 for opaque)
 *     word 1      VLAN: outer TCI's 12 bits | inner's << 12
 *     word 2      guest port << 16 | remote port; ICMP echo: identifier << 16; fragments: 0
 *     words 3-6   guest address (IPv4: word 3, rest 0; opaque: MAC addresses and EtherType)
 *     words 7-10  remote address
 *
 * Sources: RFC 791 section 3.1, RFC 8200 sections 3 and 4, RFC 9293 section 3.1, RFC 768, RFC 792,
 * RFC 4443 section 2.1, RFC 7323, RFC 2018, IEEE 802.1Q-2018 section 9.6.
 */

export const PACKET_OPAQUE = 0;
export const PACKET_DATAGRAM = 1;
export const PACKET_FRAGMENT = 2;
export const PACKET_TCP = 3;
export type PacketKind =
  | typeof PACKET_OPAQUE
  | typeof PACKET_DATAGRAM
  | typeof PACKET_FRAGMENT
  | typeof PACKET_TCP;

export const TCP_FIN = 0x01;
export const TCP_SYN = 0x02;
export const TCP_RST = 0x04;
export const TCP_PSH = 0x08;
export const TCP_ACK = 0x10;
export const TCP_URG = 0x20;

export const FLOW_KEY_WORDS = 11;

const ETHERNET_BYTES = 14;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const ETHERTYPE_VLAN = 0x8100;
const ETHERTYPE_SERVICE_VLAN = 0x88a8;

export const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
export const PROTOCOL_ICMPV6 = 58;

const IPV6_HOP_BY_HOP = 0;
const IPV6_ROUTING = 43;
const IPV6_FRAGMENT = 44;
const IPV6_DESTINATION = 60;
/** A chain longer than this is not taken apart: no sane host sends it. */
const EXTENSION_HEADERS_MAX = 8;

/** Router and neighbour solicitation and advertisement, redirect (RFC 4861 section 4). */
const ND_FIRST = 133;
const ND_LAST = 137;

const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_MSS = 2;
const OPTION_WINDOW_SCALE = 3;
const OPTION_SACK_PERMITTED = 4;
const OPTION_SACK = 5;
const OPTION_TIMESTAMPS = 8;
/** NOP, NOP, timestamps, 10: what nearly every segment begins its options with. */
const USUAL_TIMESTAMPS = 0x0101_080a;

/** A frame's parts; offsets are into the buffer that `parse` was given. */
export class Packet {
  kind: PacketKind = PACKET_OPAQUE;
  frameAt = 0;
  frameEnd = 0;
  /** 4, 6, or 0 when no IP header was understood. */
  ipVersion = 0;
  /** IP protocol of the payload, after IPv6 extension headers. */
  protocol = 0;
  ipAt = 0;
  /** Start of the transport header. */
  transportAt = 0;
  payloadAt = 0;
  /** End of the IP packet: Ethernet padding comes after it. */
  end = 0;

  /** Fragments: identification, offset in bytes, whether more follow. */
  fragmentId = 0;
  fragmentOffset = 0;
  moreFragments = false;

  /** TCP only, as in the segment. */
  seq = 0;
  ack = 0;
  flags = 0;
  window = 0;
  /** Offset of TSval, TSecr is 4 bytes later; 0: no timestamps option. */
  timestampsAt = 0;
  /** Offset of the first SACK block and number of blocks. */
  sackAt = 0;
  sackBlocks = 0;
  /** -1 where the option is absent. */
  windowScale = -1;
  maxSegmentSize = -1;
  sackPermitted = false;

  /** The flow's key and its hash (unsigned 32 bits); see the header. */
  readonly key = new Int32Array(FLOW_KEY_WORDS);
  hash = 0;

  /**
   * Looks at the frame in `bytes` from `at` to `end`. `fromGuest` tells which end of the flow the
   * guest is.
   */
  parse(bytes: Buffer, at: number, end: number, fromGuest: boolean): void {
    this.frameAt = at;
    this.frameEnd = end;
    this.kind = PACKET_OPAQUE;
    this.ipVersion = 0;
    this.protocol = 0;
    this.key.fill(0);
    if (end - at >= ETHERNET_BYTES) {
      this.#parseEthernet(bytes, at, fromGuest);
      if (this.kind === PACKET_OPAQUE) this.#keyOpaque(bytes, at, fromGuest);
    }
    this.hash = hashKey(this.key);
  }

  /** Bytes of sequence space: payload, plus one each for SYN and FIN. */
  get sequenceBytes(): number {
    const { flags } = this;
    return this.end - this.payloadAt + ((flags & TCP_SYN) >> 1) + (flags & TCP_FIN);
  }

  #parseEthernet(bytes: Buffer, at: number, fromGuest: boolean): void {
    let typeAt = at + 12;
    let type = bytes.readUInt16BE(typeAt);
    for (let tags = 0; tags < 2; tags++) {
      if (type !== ETHERTYPE_VLAN && type !== ETHERTYPE_SERVICE_VLAN) break;
      if (typeAt + 6 > this.frameEnd) return;
      const tag = bytes.readUInt16BE(typeAt + 2) & 0xfff;
      this.key[1] = (this.key[1] as number) | (tags === 0 ? tag : tag << 12);
      typeAt += 4;
      type = bytes.readUInt16BE(typeAt);
    }
    if (type === ETHERTYPE_IPV4) this.#parseIpv4(bytes, typeAt + 2, fromGuest);
    else if (type === ETHERTYPE_IPV6) this.#parseIpv6(bytes, typeAt + 2, fromGuest);
  }

  #parseIpv4(bytes: Buffer, at: number, fromGuest: boolean): void {
    if (this.frameEnd - at < 20) return;
    const first = bytes.readUInt8(at);
    const headerBytes = (first & 15) * 4;
    const totalBytes = bytes.readUInt16BE(at + 2);
    if (first >> 4 !== 4 || headerBytes < 20 || totalBytes < headerBytes) return;
    if (at + totalBytes > this.frameEnd) return;
    this.#keyAddress(bytes, at + 12, 4, fromGuest ? 3 : 7);
    this.#keyAddress(bytes, at + 16, 4, fromGuest ? 7 : 3);
    this.ipAt = at;
    this.end = at + totalBytes;
    const fragment = bytes.readUInt16BE(at + 6);
    const protocol = bytes.readUInt8(at + 9);
    if ((fragment & 0x3fff) !== 0) {
      this.fragmentId = bytes.readUInt16BE(at + 4);
      this.fragmentOffset = (fragment & 0x1fff) * 8;
      this.moreFragments = (fragment & 0x2000) !== 0;
      this.#isFragment(4, protocol, at + headerBytes);
      return;
    }
    this.#parseTransport(bytes, { version: 4, protocol, at: at + headerBytes, fromGuest });
  }

  #parseIpv6(bytes: Buffer, at: number, fromGuest: boolean): void {
    if (this.frameEnd - at < 40 || bytes.readUInt8(at) >> 4 !== 6) return;
    const end = at + 40 + bytes.readUInt16BE(at + 4);
    if (end > this.frameEnd) return;
    this.ipAt = at;
    this.end = end;
    let protocol = bytes.readUInt8(at + 6);
    let next = at + 40;
    for (let headers = 0; isExtension(protocol); headers++) {
      if (headers === EXTENSION_HEADERS_MAX || next + 8 > end) return;
      if (protocol === IPV6_FRAGMENT) {
        const fragment = bytes.readUInt16BE(next + 2);
        // An atomic fragment (RFC 6946) is a whole packet.
        if ((fragment & 0xfff9) !== 0) {
          this.fragmentId = bytes.readUInt32BE(next + 4);
          this.fragmentOffset = fragment & 0xfff8;
          this.moreFragments = (fragment & 1) !== 0;
          this.#keyIpv6(bytes, at, fromGuest);
          this.#isFragment(6, bytes.readUInt8(next), next + 8);
          return;
        }
      }
      const isFragmentHeader = protocol === IPV6_FRAGMENT;
      protocol = bytes.readUInt8(next);
      next += isFragmentHeader ? 8 : 8 + bytes.readUInt8(next + 1) * 8;
      if (next > end) return;
    }
    if (protocol === PROTOCOL_ICMPV6 && next < end) {
      const type = bytes.readUInt8(next);
      if (type >= ND_FIRST && type <= ND_LAST) return;
    }
    this.#keyIpv6(bytes, at, fromGuest);
    this.#parseTransport(bytes, { version: 6, protocol, at: next, fromGuest });
  }

  #parseTransport(
    bytes: Buffer,
    ip: { version: number; protocol: number; at: number; fromGuest: boolean },
  ): void {
    const { at, protocol, fromGuest } = ip;
    const room = this.end - at;
    this.transportAt = at;
    this.payloadAt = at;
    let kind: PacketKind = PACKET_DATAGRAM;
    if (protocol === PROTOCOL_TCP) {
      if (room < 20 || !this.#parseTcp(bytes, at)) return;
      kind = PACKET_TCP;
      this.#keyPorts(bytes, at, fromGuest);
    } else if (protocol === PROTOCOL_UDP) {
      if (room < 8) return;
      const length = bytes.readUInt16BE(at + 4);
      if (length < 8 || length > room) return;
      this.end = at + length;
      this.payloadAt = at + 8;
      this.#keyPorts(bytes, at, fromGuest);
    } else if (protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMPV6) {
      if (room < 8) return;
      if (isEcho(protocol, bytes.readUInt8(at))) this.key[2] = bytes.readUInt16BE(at + 4) << 16;
    }
    this.kind = kind;
    this.ipVersion = ip.version;
    this.protocol = protocol;
    this.key[0] = (ip.version << 8) | protocol;
  }

  #isFragment(version: number, protocol: number, payloadAt: number): void {
    if (payloadAt > this.end) return;
    this.kind = PACKET_FRAGMENT;
    this.ipVersion = version;
    this.protocol = protocol;
    this.transportAt = payloadAt;
    this.payloadAt = payloadAt;
    this.key[0] = (version << 8) | protocol;
  }

  #parseTcp(bytes: Buffer, at: number): boolean {
    const headerBytes = (bytes.readUInt8(at + 12) >> 4) * 4;
    if (headerBytes < 20 || at + headerBytes > this.end) return false;
    this.seq = bytes.readUInt32BE(at + 4);
    this.ack = bytes.readUInt32BE(at + 8);
    this.flags = bytes.readUInt8(at + 13);
    this.window = bytes.readUInt16BE(at + 14);
    this.payloadAt = at + headerBytes;
    this.timestampsAt = 0;
    this.sackAt = 0;
    this.sackBlocks = 0;
    this.windowScale = -1;
    this.maxSegmentSize = -1;
    this.sackPermitted = false;
    let next = at + 20;
    if (headerBytes >= 32 && bytes.readUInt32BE(next) === USUAL_TIMESTAMPS) {
      this.timestampsAt = at + 24;
      next += 12;
    }
    if (next < this.payloadAt) this.#parseTcpOptions(bytes, next);
    return true;
  }

  /** Options behind a malformed one are ignored, as receivers do. */
  #parseTcpOptions(bytes: Buffer, from: number): void {
    const end = this.payloadAt;
    for (let at = from; at < end; ) {
      const kind = bytes.readUInt8(at);
      if (kind === OPTION_END) return;
      if (kind === OPTION_NOP) {
        at++;
        continue;
      }
      if (at + 2 > end) return;
      const length = bytes.readUInt8(at + 1);
      if (length < 2 || at + length > end) return;
      if (kind === OPTION_TIMESTAMPS && length === 10) this.timestampsAt = at + 2;
      else if (kind === OPTION_MSS && length === 4) {
        this.maxSegmentSize = bytes.readUInt16BE(at + 2);
      } else if (kind === OPTION_WINDOW_SCALE && length === 3) {
        this.windowScale = bytes.readUInt8(at + 2);
      } else if (kind === OPTION_SACK_PERMITTED && length === 2) this.sackPermitted = true;
      else if (kind === OPTION_SACK && length >= 10 && (length - 2) % 8 === 0) {
        this.sackAt = at + 2;
        this.sackBlocks = (length - 2) / 8;
      }
      at += length;
    }
  }

  #keyIpv6(bytes: Buffer, ipAt: number, fromGuest: boolean): void {
    this.#keyAddress(bytes, ipAt + 8, 16, fromGuest ? 3 : 7);
    this.#keyAddress(bytes, ipAt + 24, 16, fromGuest ? 7 : 3);
  }

  #keyAddress(bytes: Buffer, at: number, length: 4 | 16, word: number): void {
    for (let offset = 0; offset < length; offset += 4) {
      this.key[word + offset / 4] = bytes.readInt32BE(at + offset);
    }
  }

  #keyPorts(bytes: Buffer, at: number, fromGuest: boolean): void {
    const guest = bytes.readUInt16BE(fromGuest ? at : at + 2);
    const remote = bytes.readUInt16BE(fromGuest ? at + 2 : at);
    this.key[2] = (guest << 16) | remote;
  }

  #keyOpaque(bytes: Buffer, at: number, fromGuest: boolean): void {
    const { key } = this;
    key.fill(0);
    const source = at + 6;
    const [guest, remote] = fromGuest ? [source, at] : [at, source];
    key[3] = bytes.readUInt32BE(guest);
    key[4] = (bytes.readUInt16BE(guest + 4) << 16) | bytes.readUInt16BE(at + 12);
    key[7] = bytes.readUInt32BE(remote);
    key[8] = bytes.readUInt16BE(remote + 4) << 16;
  }
}

function isExtension(protocol: number): boolean {
  return (
    protocol === IPV6_HOP_BY_HOP ||
    protocol === IPV6_ROUTING ||
    protocol === IPV6_FRAGMENT ||
    protocol === IPV6_DESTINATION
  );
}

function isEcho(protocol: number, type: number): boolean {
  return protocol === PROTOCOL_ICMP ? type === 0 || type === 8 : type === 128 || type === 129;
}

/** Mixes the words as MurmurHash3's 32-bit finaliser does; not meant to resist an attacker. */
export function hashKey(key: Int32Array): number {
  let hash = 0;
  for (let word = 0; word < FLOW_KEY_WORDS; word++) {
    hash = Math.imul(hash ^ (key[word] as number), 0x9e37_79b1);
    hash ^= hash >>> 15;
  }
  hash = Math.imul(hash, 0x85eb_ca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}
