/**
 * Learns which addresses the guest has, from the frames it sends: nobody else knows them, and after
 * a failover the network must be told that they have moved.
 *
 * In: outgoing frames, untrusted. Out: a bounded list of (MAC, VLAN, IP address).
 *
 * ARP and neighbour discovery say whose address it is: such an entry is *confirmed*. A source
 * address in an IP header is weaker, since a guest that routes sends other hosts' packets with its
 * own MAC; announcing those would steal their traffic. So unconfirmed addresses are announced only
 * while their MAC has no confirmed one of the same family, and they are the first to be forgotten.
 *
 * One 802.1Q tag is understood; behind anything else only the MAC is learned.
 * Sources: RFC 826; RFC 4861 sections 4.2 to 4.4; IEEE 802.1Q-2018 section 9.6.
 */
import { ByteReader, ByteWriter, ProtocolError } from '../lib/index.js';
import { LEARNED_ADDRESSES_MAX } from './limits.js';

/** One address of the guest. Buffers are owned by the entry and not modified. */
export interface GuestAddress {
  readonly mac: Buffer;
  /** 802.1Q VLAN identifier, 0 for untagged. */
  readonly vlan: number;
  /** 4 or 16 bytes; empty while the MAC is all that is known. */
  readonly ip: Buffer;
  /** Seen in ARP or neighbour discovery, not only as a source of packets. */
  readonly confirmed: boolean;
  /** The guest calls itself an IPv6 router; an announcement that says otherwise would unmake it. */
  readonly router: boolean;
}

/** Where in a frame its sender's address stands. */
interface Source {
  readonly vlan: number;
  readonly ipAt: number;
  readonly ipLength: number;
  readonly confirmed: boolean;
  readonly router: boolean;
}

interface Entry {
  readonly mac: Buffer;
  readonly vlan: number;
  readonly ip: Buffer;
  confirmed: boolean;
  router: boolean;
  usedAt: number;
}

const MAC_BYTES = 6;
/** Offset of the sender's MAC in a frame, and the length of the header it is in. */
const SOURCE_MAC_AT = 6;
const ETHERNET_BYTES = 14;

const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_ARP = 0x0806;
const ETHERTYPE_VLAN = 0x8100;
const ETHERTYPE_IPV6 = 0x86dd;

/** Hardware type Ethernet, protocol IPv4, address lengths 6 and 4. */
const ARP_ETHERNET_IPV4 = [0x0001_0800, 0x0604] as const;
const ARP_BYTES = 28;
const IPV4_HEADER_BYTES = 20;
const IPV6_HEADER_BYTES = 40;
const NEXT_HEADER_ICMPV6 = 58;
/** Neighbour discovery is valid only with the hop limit that no router can have forwarded. */
const ND_HOP_LIMIT = 255;
const ND_ROUTER_ADVERTISEMENT = 134;
const ND_NEIGHBOUR_SOLICITATION = 135;
const ND_NEIGHBOUR_ADVERTISEMENT = 136;
const ND_TARGET_END = 24;

const FLAG_CONFIRMED = 1;
const FLAG_ROUTER = 2;

export class AddressLearner {
  readonly #entries: Entry[] = [];
  readonly #entriesMax: number;
  #uses = 0;

  constructor(entriesMax = LEARNED_ADDRESSES_MAX) {
    this.#entriesMax = entriesMax;
  }

  /** Looks at one Ethernet frame that the guest sent, `at` to `end`; any bytes are allowed. */
  learn(bytes: Buffer, at = 0, end = bytes.length): void {
    const macAt = at + SOURCE_MAC_AT;
    if (end - at < ETHERNET_BYTES || !isStationMac(bytes, macAt)) return;
    const source = locateSource(bytes, at, end);
    const known = this.#find(bytes, macAt, source);
    if (known !== undefined) {
      known.usedAt = ++this.#uses;
      known.confirmed ||= source.confirmed;
      known.router ||= source.router;
      return;
    }
    this.#add({
      mac: Buffer.from(bytes.subarray(macAt, macAt + MAC_BYTES)),
      vlan: source.vlan,
      ip: Buffer.from(bytes.subarray(source.ipAt, source.ipAt + source.ipLength)),
      confirmed: source.confirmed,
      router: source.router,
    });
  }

  /** Takes over what the peer learned. */
  merge(addresses: readonly GuestAddress[]): void {
    for (const address of addresses) {
      const known = this.#entries.find((entry) => isSame(entry, address));
      if (known === undefined) {
        this.#add(address);
      } else {
        known.confirmed ||= address.confirmed;
        known.router ||= address.router;
      }
    }
  }

  /** All that is known. */
  addresses(): GuestAddress[] {
    return this.#entries.map(({ mac, vlan, ip, confirmed, router }) => ({
      mac,
      vlan,
      ip,
      confirmed,
      router,
    }));
  }

  /** What may be told to the network: see the header on unconfirmed addresses. */
  announceable(): GuestAddress[] {
    const all = this.addresses();
    return all.filter(
      (address) =>
        address.confirmed ||
        !all.some(
          (other) =>
            other.confirmed &&
            other.ip.length === address.ip.length &&
            other.vlan === address.vlan &&
            other.mac.equals(address.mac),
        ),
    );
  }

  #find(bytes: Buffer, macAt: number, source: Source): Entry | undefined {
    const { vlan, ipAt, ipLength } = source;
    for (const entry of this.#entries) {
      if (entry.vlan !== vlan) continue;
      // An address-less frame adds nothing to a MAC that is known with any address.
      if (ipLength !== 0 && entry.ip.length !== ipLength) continue;
      if (ipLength !== 0 && entry.ip.compare(bytes, ipAt, ipAt + ipLength) !== 0) continue;
      if (entry.mac.compare(bytes, macAt, macAt + MAC_BYTES) === 0) return entry;
    }
    return undefined;
  }

  #add(address: GuestAddress): void {
    const bare = this.#entries.findIndex(
      (entry) =>
        entry.ip.length === 0 && entry.vlan === address.vlan && entry.mac.equals(address.mac),
    );
    if (bare >= 0) this.#entries.splice(bare, 1);
    else if (this.#entries.length >= this.#entriesMax) this.#forgetOne();
    this.#entries.push({ ...address, usedAt: ++this.#uses });
  }

  #forgetOne(): void {
    let victim = 0;
    for (let index = 1; index < this.#entries.length; index++) {
      const entry = this.#entries[index] as Entry;
      const worst = this.#entries[victim] as Entry;
      if (entry.confirmed === worst.confirmed ? entry.usedAt < worst.usedAt : worst.confirmed) {
        victim = index;
      }
    }
    this.#entries.splice(victim, 1);
  }
}

/**
 * For the peer. Big-endian: count (2), then per address MAC (6), VLAN (2), flags (1: bit 0
 * confirmed, bit 1 router), length of the IP address (1: 0, 4 or 16), the address.
 */
export function encodeAddresses(addresses: readonly GuestAddress[]): Buffer {
  const writer = new ByteWriter(2 + addresses.length * 26).uint16(addresses.length);
  for (const { mac, vlan, ip, confirmed, router } of addresses) {
    const flags = (confirmed ? FLAG_CONFIRMED : 0) | (router ? FLAG_ROUTER : 0);
    writer.bytes(mac).uint16(vlan).uint8(flags).uint8(ip.length).bytes(ip);
  }
  return writer.finish();
}

/** Reads what the peer encoded; copies. Throws `ProtocolError` for anything a guest can't have. */
export function decodeAddresses(bytes: Buffer): GuestAddress[] {
  const reader = new ByteReader(bytes);
  const count = reader.uint16();
  if (count > LEARNED_ADDRESSES_MAX) {
    throw new ProtocolError(`${count} guest addresses exceed ${LEARNED_ADDRESSES_MAX}`);
  }
  const addresses: GuestAddress[] = [];
  for (let index = 0; index < count; index++) {
    const mac = Buffer.from(reader.bytes(MAC_BYTES));
    const vlan = reader.uint16();
    const flags = reader.uint8();
    const ipLength = reader.uint8();
    const legal =
      isStationMac(mac, 0) &&
      vlan <= 0xfff &&
      flags <= (FLAG_CONFIRMED | FLAG_ROUTER) &&
      (ipLength === 0 || ipLength === 4 || ipLength === 16);
    if (!legal) throw new ProtocolError(`Guest address ${index} is malformed`);
    const ip = Buffer.from(reader.bytes(ipLength));
    if (ipLength !== 0 && !isHostAddress(ip, 0, ipLength)) {
      throw new ProtocolError(`Guest address ${index} is no host's address`);
    }
    addresses.push({
      mac,
      vlan,
      ip,
      confirmed: (flags & FLAG_CONFIRMED) !== 0,
      router: (flags & FLAG_ROUTER) !== 0,
    });
  }
  reader.end();
  return addresses;
}

function isSame(a: GuestAddress, b: GuestAddress): boolean {
  return a.vlan === b.vlan && a.mac.equals(b.mac) && (b.ip.length === 0 || a.ip.equals(b.ip));
}

function locateSource(bytes: Buffer, at: number, end: number): Source {
  let type = bytes.readUInt16BE(at + 12);
  let next = at + ETHERNET_BYTES;
  let vlan = 0;
  if (type === ETHERTYPE_VLAN && end >= next + 4) {
    vlan = bytes.readUInt16BE(next) & 0xfff;
    type = bytes.readUInt16BE(next + 2);
    next += 4;
  }
  const part = { bytes, at: next, end, vlan };
  const found =
    type === ETHERTYPE_ARP
      ? locateInArp(part, at + SOURCE_MAC_AT)
      : type === ETHERTYPE_IPV4
        ? locateInIpv4(part)
        : type === ETHERTYPE_IPV6
          ? locateInIpv6(part)
          : undefined;
  if (found !== undefined && isHostAddress(bytes, found.ipAt, found.ipLength)) return found;
  return { vlan, ipAt: 0, ipLength: 0, confirmed: false, router: false };
}

/** What follows the Ethernet header. */
interface Part {
  readonly bytes: Buffer;
  readonly at: number;
  readonly end: number;
  readonly vlan: number;
}

function locateInArp({ bytes, at, end, vlan }: Part, macAt: number): Source | undefined {
  if (
    end < at + ARP_BYTES ||
    bytes.readUInt32BE(at) !== ARP_ETHERNET_IPV4[0] ||
    bytes.readUInt16BE(at + 4) !== ARP_ETHERNET_IPV4[1] ||
    bytes.compare(bytes, at + 8, at + 14, macAt, macAt + MAC_BYTES) !== 0
  ) {
    return undefined;
  }
  return { vlan, ipAt: at + 14, ipLength: 4, confirmed: true, router: false };
}

function locateInIpv4({ bytes, at, end, vlan }: Part): Source | undefined {
  if (end < at + IPV4_HEADER_BYTES || bytes.readUInt8(at) >> 4 !== 4) return undefined;
  return { vlan, ipAt: at + 12, ipLength: 4, confirmed: false, router: false };
}

function locateInIpv6({ bytes, at, end, vlan }: Part): Source | undefined {
  if (end < at + IPV6_HEADER_BYTES || bytes.readUInt8(at) >> 4 !== 6) return undefined;
  const source = { vlan, ipAt: at + 8, ipLength: 16, confirmed: false, router: false };
  const icmpAt = at + IPV6_HEADER_BYTES;
  const isDiscovery =
    bytes.readUInt8(at + 6) === NEXT_HEADER_ICMPV6 &&
    bytes.readUInt8(at + 7) === ND_HOP_LIMIT &&
    end >= icmpAt + 8;
  if (!isDiscovery) return source;
  switch (bytes.readUInt8(icmpAt)) {
    case ND_ROUTER_ADVERTISEMENT:
      return { ...source, confirmed: true, router: true };
    case ND_NEIGHBOUR_SOLICITATION:
      return { ...source, confirmed: true };
    case ND_NEIGHBOUR_ADVERTISEMENT:
      if (end < icmpAt + ND_TARGET_END) return source;
      // The first bit of the flags is R: the sender is a router.
      return {
        ...source,
        ipAt: icmpAt + 8,
        confirmed: true,
        router: (bytes.readUInt8(icmpAt + 4) & 0x80) !== 0,
      };
    default:
      return source;
  }
}

/** Neither a group address nor all zeroes. */
function isStationMac(bytes: Buffer, at: number): boolean {
  return (bytes.readUInt8(at) & 1) === 0 && bytes.readUIntBE(at, MAC_BYTES) !== 0;
}

/** Not unspecified, loopback, multicast, reserved or broadcast. */
function isHostAddress(bytes: Buffer, at: number, length: number): boolean {
  const first = bytes.readUInt8(at);
  if (length === 4) return first !== 0 && first !== 127 && first < 224;
  if (first === 0xff) return false;
  // :: and ::1
  for (let index = at; index < at + 15; index++) if (bytes[index] !== 0) return true;
  return bytes.readUInt8(at + 15) > 1;
}
