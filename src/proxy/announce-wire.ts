/**
 * The frames that tell a network, after a failover, behind which port the guest now is.
 *
 * Switches learn from any frame with the guest's source MAC. Neighbours keep their caches, since
 * MAC and IP do not change; the frames name both nevertheless, for hosts whose entry went stale
 * during the outage.
 *
 *     IPv4 address      ARP announcement as a request and as a reply (hosts differ in what they
 *     heed) IPv6 address      unsolicited neighbour advertisement to all nodes, override flag set
 *     MAC only          reverse ARP request, as QEMU's announce-self sends
 *
 * Sources: RFC 826; RFC 5227 sections 1.1 and 3; RFC 5944 section 4.6 (the reply form); RFC 4861
 * sections 4.4, 4.6.1 and 7.2.6; RFC 4443 section 2.3; RFC 903; QEMU 7.2 net/announce.c.
 */
import { assert } from '../lib/index.js';
import type { GuestAddress } from './address-learner.js';
import { encodeBatch } from './batch-wire.js';
import { ICMP_CHECKSUM_OFFSET, icmpChecksum } from './checksum.js';
import { VNET_HEADER_BYTES } from './limits.js';
import { PROTOCOL_ICMPV6 } from './packet.js';

const BROADCAST_MAC = Buffer.from('ffffffffffff', 'hex');
/** 33:33 and the last four bytes of ff02::1 (RFC 2464 section 7). */
const ALL_NODES_MAC = Buffer.from('333300000001', 'hex');
const ALL_NODES_IP = Buffer.from('ff020000000000000000000000000001', 'hex');
const NO_MAC = Buffer.alloc(6);
const NO_IPV4 = Buffer.alloc(4);

/** All zero: nothing is left to the receiver. */
const VNET_HEADER = Buffer.alloc(VNET_HEADER_BYTES);
/** Ethernet's minimum without the FCS, behind the virtio_net_hdr. */
const FRAME_BYTES_PADDED = VNET_HEADER_BYTES + 60;

const ETHERTYPE_ARP = 0x0806;
const ETHERTYPE_VLAN = 0x8100;
const ETHERTYPE_RARP = 0x8035;
const ETHERTYPE_IPV6 = 0x86dd;

const ARP_REQUEST = 1;
const ARP_REPLY = 2;
const RARP_REQUEST = 3;

const IPV6_BYTES = 40;
const NEIGHBOUR_ADVERTISEMENT = 136;
const NA_OVERRIDE = 0x2000_0000;
const NA_ROUTER = 0x8000_0000;
const NA_BYTES = 32;
const OPTION_TARGET_LINK_LAYER_ADDRESS = 2;

/** All frames for these addresses as one batch; empty without addresses. */
export function encodeAnnouncement(addresses: readonly GuestAddress[]): Buffer {
  return encodeBatch(addresses.flatMap(announcementFrames));
}

function announcementFrames(address: GuestAddress): Buffer[] {
  switch (address.ip.length) {
    case 0:
      return [reverseArp(address)];
    case 4:
      return [arpAnnouncement(address, ARP_REQUEST), arpAnnouncement(address, ARP_REPLY)];
    default:
      return [neighbourAdvertisement(address)];
  }
}

/**
 * Sender and target IP are the guest's; the target MAC is unused in a request, its own in a reply.
 */
function arpAnnouncement(address: GuestAddress, operation: number): Buffer {
  const { mac, ip } = address;
  assert(ip.length === 4, 'ARP announces IPv4 addresses');
  const targetMac = operation === ARP_REQUEST ? NO_MAC : mac;
  const header = ethernetHeader(BROADCAST_MAC, address, ETHERTYPE_ARP);
  return padded([header, arpFixedPart(operation), mac, ip, targetMac, ip]);
}

function reverseArp(address: GuestAddress): Buffer {
  const { mac } = address;
  const header = ethernetHeader(BROADCAST_MAC, address, ETHERTYPE_RARP);
  return padded([header, arpFixedPart(RARP_REQUEST), mac, NO_IPV4, mac, NO_IPV4]);
}

function neighbourAdvertisement(address: GuestAddress): Buffer {
  const { mac, ip } = address;
  assert(ip.length === 16, 'Neighbour advertisements announce IPv6 addresses');
  const icmp = Buffer.alloc(NA_BYTES);
  icmp.writeUInt8(NEIGHBOUR_ADVERTISEMENT, 0);
  icmp.writeUInt32BE(address.router ? NA_ROUTER + NA_OVERRIDE : NA_OVERRIDE, 4);
  icmp.set(ip, 8);
  icmp.writeUInt8(OPTION_TARGET_LINK_LAYER_ADDRESS, 24);
  // Option lengths count units of 8 bytes.
  icmp.writeUInt8(1, 25);
  icmp.set(mac, 26);

  const ipHeader = Buffer.alloc(8);
  ipHeader.writeUInt8(6 << 4, 0);
  ipHeader.writeUInt16BE(NA_BYTES, 4);
  ipHeader.writeUInt8(PROTOCOL_ICMPV6, 6);
  // Receivers drop neighbour discovery with any other hop limit.
  ipHeader.writeUInt8(255, 7);
  const packet = Buffer.concat([ipHeader, ip, ALL_NODES_IP, icmp]);
  const message = { ipVersion: 6, ipAt: 0, transportAt: IPV6_BYTES, end: packet.length };
  packet.writeUInt16BE(icmpChecksum(packet, message), IPV6_BYTES + ICMP_CHECKSUM_OFFSET);
  return padded([ethernetHeader(ALL_NODES_MAC, address, ETHERTYPE_IPV6), packet]);
}

function ethernetHeader(destination: Buffer, address: GuestAddress, type: number): Buffer {
  const tagged = address.vlan !== 0;
  const header = Buffer.alloc(tagged ? 18 : 14);
  header.set(destination, 0);
  header.set(address.mac, 6);
  if (tagged) {
    header.writeUInt16BE(ETHERTYPE_VLAN, 12);
    header.writeUInt16BE(address.vlan, 14);
  }
  header.writeUInt16BE(type, header.length - 2);
  return header;
}

/** Hardware type Ethernet, protocol IPv4, address lengths 6 and 4, operation. */
function arpFixedPart(operation: number): Buffer {
  return Buffer.from([0, 1, 8, 0, 6, 4, 0, operation]);
}

function padded(parts: readonly Buffer[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, VNET_HEADER_BYTES);
  return Buffer.concat([VNET_HEADER, ...parts], Math.max(length, FRAME_BYTES_PADDED));
}
