/**
 * What wakes both ends of a TCP connection after a failover, so that they do not wait for timers
 * that have backed off.
 *
 * While nobody answers, each end that has something outstanding sends it again after 0.2 s, 0.4 s,
 * 0.8 s and so on. What just misses the end of an outage is repeated only after as long again as
 * the outage lasted. RFC 6069 is the way back: an ICMP "host unreachable" that quotes the oldest
 * outstanding segment says that the path was gone and the network is not congested, so that the
 * sender undoes one doubling of its timer, and sends at once if it is over by then. Linux does so
 * since 2.6.32 (`tcp_ld_RTO_revert`); others ignore such an error on an established connection, as
 * RFC 1122 section 4.2.3.9 demands.
 *
 *     to the remote end   errors that quote its next segment, as if the guest's host had sent them
 *     to the guest        a keep-alive (RFC 1122 section 4.2.3.6), which it answers by what it has
 *                         of the connection: so the remote end need not repeat what the guest had
 *                         already; then errors that quote the guest's oldest segment that the
 *                         remote end has not acknowledged
 *
 * An error whose number does not fit changes nothing at its receiver.
 *
 * Sources: RFC 6069 section 4; RFC 792; RFC 4443 section 3.1; RFC 5927 (what a host may conclude
 * from such an error); Linux net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c `tcp_v6_err`.
 */
import { seqAdd } from '../lib/index.js';
import { encodeBatch } from './batch-wire.js';
import {
  ICMP_CHECKSUM_OFFSET,
  icmpChecksum,
  ipv4HeaderChecksum,
  type SegmentPlace,
  TCP_CHECKSUM_OFFSET,
  tcpChecksum,
} from './checksum.js';
import { NUDGE_ERRORS, VNET_HEADER_BYTES } from './limits.js';
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, TCP_ACK } from './packet.js';
import type { RecentFlow } from './recent-flows.js';

const IPV4_BYTES = 20;
const IPV6_BYTES = 40;
const TCP_BYTES = 20;
const TIMESTAMPS_BYTES = 12;
/** NOP, NOP, timestamps, 10. */
const TIMESTAMPS_HEADER = 0x0101_080a;
const ICMP_HEADER_BYTES = 8;
/** What every error quotes at least: ports and sequence number. */
const QUOTED_BYTES = 8;
const HOPS = 64;
const DO_NOT_FRAGMENT = 0x4000;
const MAC_BYTES = 6;

/** Destination unreachable: host (RFC 792), and no route (RFC 4443). */
const HOST_UNREACHABLE = 0x0301;
const NO_ROUTE = 0x0100;

/** Each a batch. What goes to the guest is in the numbers of the mirrored input. */
export interface Nudge {
  readonly toRemote: Buffer;
  readonly toGuest: Buffer;
}

/** One end of a connection: its address, and its port. */
interface End {
  readonly ip: Buffer;
  readonly port: number;
}

export function encodeNudge(flow: RecentFlow): Nudge {
  const { link, next, acknowledged } = flow;
  const version = (flow.key[0] ?? 0) >> 8;
  const words = version === 4 ? 1 : 4;
  const ports = flow.key[2] ?? 0;
  const guest: End = { ip: addressOf(flow.key, 3, words), port: ports >>> 16 };
  const remote: End = { ip: addressOf(flow.key, 7, words), port: ports & 0xffff };
  const toGuest = unreachable(link, { from: remote, to: guest, seq: acknowledged });
  const toRemote = unreachable(returned(link), { from: guest, to: remote, seq: next });
  return {
    toRemote: encodeBatch(new Array(NUDGE_ERRORS).fill(toRemote)),
    toGuest: encodeBatch([
      keepAlive(flow, remote, guest),
      ...new Array(NUDGE_ERRORS).fill(toGuest),
    ]),
  };
}

/** The receiver's segment with this number did not reach the sender of the error. */
function unreachable(link: Buffer, { from, to, seq }: { from: End; to: End; seq: number }): Buffer {
  const v4 = from.ip.length === 4;
  const quote = ipHeader({ from: to.ip, to: from.ip, protocol: PROTOCOL_TCP, bytes: TCP_BYTES });
  const message = Buffer.alloc(ICMP_HEADER_BYTES + quote.length + QUOTED_BYTES);
  message.writeUInt16BE(v4 ? HOST_UNREACHABLE : NO_ROUTE, 0);
  message.set(quote, ICMP_HEADER_BYTES);
  const tcpAt = ICMP_HEADER_BYTES + quote.length;
  message.writeUInt16BE(to.port, tcpAt);
  message.writeUInt16BE(from.port, tcpAt + 2);
  message.writeUInt32BE(seq, tcpAt + 4);
  const frame = frameOf(link, {
    header: ipHeader({
      ...{ from: from.ip, to: to.ip, bytes: message.length },
      protocol: v4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6,
    }),
    content: message,
  });
  const place = placeIn(frame, link);
  frame.writeUInt16BE(icmpChecksum(frame, place), place.transportAt + ICMP_CHECKSUM_OFFSET);
  return frame;
}

/** One byte before what the guest expects, and nothing in it. */
function keepAlive(flow: RecentFlow, remote: End, guest: End): Buffer {
  const bytes = TCP_BYTES + (flow.timestamps ? TIMESTAMPS_BYTES : 0);
  const segment = Buffer.alloc(bytes);
  segment.writeUInt16BE(remote.port, 0);
  segment.writeUInt16BE(guest.port, 2);
  segment.writeUInt32BE(seqAdd(flow.next, -1), 4);
  segment.writeUInt32BE(flow.acknowledged, 8);
  segment.writeUInt8((bytes / 4) << 4, 12);
  segment.writeUInt8(TCP_ACK, 13);
  segment.writeUInt16BE(flow.window, 14);
  if (flow.timestamps) {
    segment.writeUInt32BE(TIMESTAMPS_HEADER, TCP_BYTES);
    segment.writeUInt32BE(flow.timestamp, TCP_BYTES + 4);
    segment.writeUInt32BE(flow.echo, TCP_BYTES + 8);
  }
  const header = ipHeader({ from: remote.ip, to: guest.ip, protocol: PROTOCOL_TCP, bytes });
  const frame = frameOf(flow.link, { header, content: segment });
  const place = placeIn(frame, flow.link);
  frame.writeUInt16BE(tcpChecksum(frame, place), place.transportAt + TCP_CHECKSUM_OFFSET);
  return frame;
}

function ipHeader(of: { from: Buffer; to: Buffer; protocol: number; bytes: number }): Buffer {
  const { from, to, protocol, bytes } = of;
  if (from.length === 4) {
    const header = Buffer.alloc(IPV4_BYTES);
    header.writeUInt8((4 << 4) | (IPV4_BYTES / 4), 0);
    header.writeUInt16BE(IPV4_BYTES + bytes, 2);
    header.writeUInt16BE(DO_NOT_FRAGMENT, 6);
    header.writeUInt8(HOPS, 8);
    header.writeUInt8(protocol, 9);
    header.set(from, 12);
    header.set(to, 16);
    header.writeUInt16BE(ipv4HeaderChecksum(header, 0), 10);
    return header;
  }
  const header = Buffer.alloc(IPV6_BYTES);
  header.writeUInt8(6 << 4, 0);
  header.writeUInt16BE(bytes, 4);
  header.writeUInt8(protocol, 6);
  header.writeUInt8(HOPS, 7);
  header.set(from, 8);
  header.set(to, 24);
  return header;
}

/** With a virtio header that leaves nothing to the receiver. */
function frameOf(link: Buffer, packet: { header: Buffer; content: Buffer }): Buffer {
  return Buffer.concat([Buffer.alloc(VNET_HEADER_BYTES), link, packet.header, packet.content]);
}

function placeIn(frame: Buffer, link: Buffer): SegmentPlace {
  const ipAt = VNET_HEADER_BYTES + link.length;
  const ipVersion = frame.readUInt8(ipAt) >> 4;
  const transportAt = ipAt + (ipVersion === 4 ? IPV4_BYTES : IPV6_BYTES);
  return { ipVersion, ipAt, transportAt, end: frame.length };
}

/** The Ethernet header of an answer. */
function returned(link: Buffer): Buffer {
  const header = Buffer.from(link);
  link.copy(header, 0, MAC_BYTES, MAC_BYTES * 2);
  link.copy(header, MAC_BYTES, 0, MAC_BYTES);
  return header;
}

function addressOf(key: Readonly<Int32Array>, word: number, words: number): Buffer {
  const address = Buffer.alloc(words * 4);
  for (let at = 0; at < words; at++) address.writeInt32BE(key[word + at] ?? 0, at * 4);
  return address;
}
