/**
 * The Internet checksum: computed in full for a frame that we build, and kept right for a field
 * that we change, without looking at the rest of the packet.
 *
 * A checksum is the complement of the ones' complement sum of all 16-bit words. A change of a field
 * changes it by the difference of the field's words, so HC' = ~(~HC + ~m + m') (RFC 1624, equation
 * 3; the older equations of RFC 1141 give a wrong zero). A field that starts at an odd offset lies
 * across words: its bytes count in swapped order, and the sum of swapped words is the swapped sum
 * (RFC 1071 section 2 B).
 *
 * A checksum that was wrong stays wrong, by the same amount: nothing damaged becomes valid here.
 */
import { PROTOCOL_ICMPV6, PROTOCOL_TCP } from './packet.js';

/** In place of a checksum's offset: there is none to keep right. */
export const NO_CHECKSUM = -1;

/** Offset of the checksum in a TCP header. */
export const TCP_CHECKSUM_OFFSET = 16;

/** Offset of the checksum in an ICMP or ICMPv6 message. */
export const ICMP_CHECKSUM_OFFSET = 2;

/** Where a TCP segment or ICMP message lies in a buffer; a `Packet` of either kind is one. */
export interface SegmentPlace {
  readonly ipVersion: number;
  readonly ipAt: number;
  readonly transportAt: number;
  readonly end: number;
}

/** The checksum after a 16-bit word of the packet, at an even offset, became another. */
export function adjustChecksum16(checksum: number, before: number, after: number): number {
  return ~fold((~checksum & 0xffff) + (~before & 0xffff) + (after & 0xffff)) & 0xffff;
}

/** The same for a 32-bit field; `odd`: it starts at an odd offset from where the sum starts. */
export function adjustChecksum32(
  checksum: number,
  before: number,
  after: number,
  odd = false,
): number {
  const difference = fold(
    (~before >>> 16) + (~before & 0xffff) + (after >>> 16) + (after & 0xffff),
  );
  const words = odd ? ((difference & 0xff) << 8) | (difference >>> 8) : difference;
  return ~fold((~checksum & 0xffff) + words) & 0xffff;
}

/**
 * Writes a 16-bit field at `at` and keeps the checksum at `checksumAt` right (`NO_CHECKSUM`: there
 * is none). Both must be at even offsets of the packet; for example a TCP window.
 */
export function replaceUint16(bytes: Buffer, at: number, after: number, checksumAt: number): void {
  if (checksumAt !== NO_CHECKSUM) {
    const checksum = bytes.readUInt16BE(checksumAt);
    const adjusted = adjustChecksum16(checksum, bytes.readUInt16BE(at), after);
    bytes.writeUInt16BE(adjusted, checksumAt);
  }
  bytes.writeUInt16BE(after, at);
}

/** The same for a 32-bit field at any offset. */
export function replaceUint32(bytes: Buffer, at: number, after: number, checksumAt: number): void {
  if (checksumAt !== NO_CHECKSUM) {
    const checksum = bytes.readUInt16BE(checksumAt);
    // The checksum fields of IP, TCP and ICMP are at even offsets themselves.
    const odd = ((at - checksumAt) & 1) === 1;
    bytes.writeUInt16BE(adjustChecksum32(checksum, bytes.readUInt32BE(at), after, odd), checksumAt);
  }
  bytes.writeUInt32BE(after, at);
}

/** What belongs into the checksum field of the segment, whatever is in there now. */
export function tcpChecksum(bytes: Buffer, segment: SegmentPlace): number {
  return checksumOf(bytes, segment, TCP_CHECKSUM_OFFSET, pseudoHeaderSum(bytes, segment));
}

/** The same for an ICMP message, which has no pseudo-header in IPv4 (RFC 792, RFC 4443 2.3). */
export function icmpChecksum(bytes: Buffer, message: SegmentPlace): number {
  const seed = message.ipVersion === 4 ? 0 : pseudoHeaderSum(bytes, message, PROTOCOL_ICMPV6);
  return checksumOf(bytes, message, ICMP_CHECKSUM_OFFSET, seed);
}

/** Of all but the checksum itself; `seed`: what is summed besides. */
function checksumOf(bytes: Buffer, place: SegmentPlace, offset: number, seed: number): number {
  const { transportAt, end } = place;
  const checksumAt = transportAt + offset;
  const sum = seed + sumWords(bytes, transportAt, checksumAt);
  return ~fold(sum + sumWords(bytes, checksumAt + 2, end)) & 0xffff;
}

/**
 * The sum over the pseudo-header, not complemented: what the checksum field holds while the rest is
 * left to somebody else (NEEDS_CSUM in the virtio header).
 * Sources: RFC 9293 section 3.1, RFC 8200 section 8.1 (without routing headers).
 */
export function pseudoHeaderSum(
  bytes: Buffer,
  segment: SegmentPlace,
  protocol = PROTOCOL_TCP,
): number {
  const { ipVersion, ipAt, transportAt, end } = segment;
  const addresses =
    ipVersion === 4 ? sumWords(bytes, ipAt + 12, ipAt + 20) : sumWords(bytes, ipAt + 8, ipAt + 40);
  return fold(addresses + protocol + (end - transportAt));
}

/** What belongs into the checksum field of the IPv4 header at `ipAt`. */
export function ipv4HeaderChecksum(bytes: Buffer, ipAt: number): number {
  const end = ipAt + (bytes.readUInt8(ipAt) & 15) * 4;
  return ~fold(sumWords(bytes, ipAt, ipAt + 10) + sumWords(bytes, ipAt + 12, end)) & 0xffff;
}

/** The words from `start` to `end`, added up but not folded; a last single byte counts as high. */
function sumWords(bytes: Buffer, start: number, end: number): number {
  let sum = 0;
  let at = start;
  // At most 32,768 words of a packet: far from 2^53, and below 2^31 as optimisers like it.
  for (; at + 1 < end; at += 2) sum += bytes.readUInt16BE(at);
  return at < end ? sum + (bytes.readUInt8(at) << 8) : sum;
}

function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + (folded >>> 16);
  return folded;
}
