/**
 * Cuts a TCP super-frame in two: the part that the SVM has confirmed, which leaves, and the rest.
 *
 * A guest with segmentation offload hands out segments of up to 64 KiB. The SVM sends the same in
 * other pieces, and no more of it than its congestion window allows, until the client has
 * acknowledged some. Were the PVM's frame to leave only as a whole, the client could not: both
 * would wait for each other. The cut is at a multiple of the segment size, so that what goes over
 * the wire is what the guest would have sent.
 *
 * The first part is a copy, since the frame's own place may be written by the rest: its headers are
 * moved forward in the batch, over bytes that have been copied. Checksums and lengths are made
 * right; FIN and PSH stay with the rest, CWR with the first part, as segmentation by a NIC does it.
 *
 * Sources: Linux net/ipv4/tcp_offload.c (`tcp_gso_segment`), virtio 1.2 section 5.1.6 (struct
 * virtio_net_hdr).
 */
import { seqAdd } from '../../lib/index.js';
import {
  ipv4HeaderChecksum,
  pseudoHeaderSum,
  TCP_CHECKSUM_OFFSET,
  tcpChecksum,
} from '../checksum.js';
import { Packet, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, TCP_URG } from '../packet.js';
import type { Frame } from './flow.js';

const LENGTH_BYTES = 4;
const VNET_BYTES = 10;
/** In the virtio_net_hdr: flags, type of segmentation, segment size (little-endian). */
const NEEDS_CSUM = 1;
const GSO_TYPE_AT = 1;
const GSO_SIZE_AT = 4;
const GSO_TCPV4 = 1;
const GSO_TCPV6 = 4;
const GSO_ECN = 0x80;

const FLAGS_AT = 13;
const TCP_CWR = 0x80;
const IPV6_BYTES = 40;

/**
 * How much of the payload may leave now: whole segments of what is confirmed, but not all; 0 if the
 * frame is no super-frame of a TCP that is only sending data.
 */
export function confirmedSegmentBytes(frame: Frame, vnetBytes: number): number {
  if (vnetBytes !== VNET_BYTES || frame.confirmedBytes === 0) return 0;
  if ((frame.flags & (TCP_SYN | TCP_RST | TCP_URG)) !== 0) return 0;
  const { batch } = frame;
  const headerAt = frame.start + LENGTH_BYTES;
  const type = (batch[headerAt + GSO_TYPE_AT] as number) & ~GSO_ECN;
  if (type !== GSO_TCPV4 && type !== GSO_TCPV6) return 0;
  // Padding behind the IP packet has no place in a super-frame.
  if (frame.payloadEnd !== frame.end) return 0;
  const segmentBytes = batch.readUInt16LE(headerAt + GSO_SIZE_AT);
  if (segmentBytes === 0) return 0;
  const bytes = frame.confirmedBytes - (frame.confirmedBytes % segmentBytes);
  return bytes < frame.payloadBytes ? bytes : 0;
}

/**
 * Cuts off the first `bytes` of the payload into `first`, whose frame gets a batch of its own;
 * `frame` is the rest, in its old batch.
 */
export function splitSegment(frame: Frame, bytes: number, first: Frame): void {
  const { batch, start, payloadAt, transportAt } = frame;
  const headerBytes = payloadAt - start;
  whole.parse(batch, start + LENGTH_BYTES + VNET_BYTES, frame.end, true);
  const { ipVersion } = whole;
  const ipOffset = whole.ipAt - start;
  const copy = Buffer.allocUnsafe(headerBytes + bytes);
  batch.copy(copy, 0, start, payloadAt + bytes);
  copy[transportAt - start + FLAGS_AT] = frame.flags & ~(TCP_FIN | TCP_PSH);
  first.batch = copy;
  first.start = 0;
  first.end = copy.length;
  first.kind = frame.kind;
  first.transportAt = transportAt - start;
  first.payloadAt = headerBytes;
  first.payloadEnd = copy.length;
  first.seq = frame.seq;
  first.ack = frame.ack;
  first.flags = frame.flags & ~(TCP_FIN | TCP_PSH);
  first.window = frame.window;
  first.confirmedBytes = bytes;
  first.flow = frame.flow;

  batch.copy(batch, start + bytes, start, payloadAt);
  frame.start += bytes;
  frame.transportAt += bytes;
  frame.payloadAt += bytes;
  frame.confirmedBytes -= bytes;
  frame.seq = seqAdd(frame.seq, bytes);
  frame.flags &= ~TCP_CWR;
  batch.writeUInt32BE(frame.seq, frame.transportAt + 4);
  batch[frame.transportAt + FLAGS_AT] = frame.flags;

  setLengths(first, ipVersion, ipOffset);
  setLengths(frame, ipVersion, ipOffset);
}

const whole = new Packet();
const place = { ipVersion: 0, ipAt: 0, transportAt: 0, end: 0 };

/** Lengths, segmentation and checksums of a frame whose payload was cut; `ipOffset`: from `start`. */
function setLengths(frame: Frame, ipVersion: number, ipOffset: number): void {
  const { batch, start, transportAt, payloadAt, end } = frame;
  batch.writeUInt32BE(end - start - LENGTH_BYTES, start);
  const vnetAt = start + LENGTH_BYTES;
  if (end - payloadAt <= batch.readUInt16LE(vnetAt + GSO_SIZE_AT)) {
    batch[vnetAt + GSO_TYPE_AT] = 0;
    batch.writeUInt16LE(0, vnetAt + GSO_SIZE_AT);
  }
  const ipAt = start + ipOffset;
  if (ipVersion === 4) {
    batch.writeUInt16BE(end - ipAt, ipAt + 2);
    batch.writeUInt16BE(ipv4HeaderChecksum(batch, ipAt), ipAt + 10);
  } else {
    batch.writeUInt16BE(end - ipAt - IPV6_BYTES, ipAt + 4);
  }
  place.ipVersion = ipVersion;
  place.ipAt = ipAt;
  place.transportAt = transportAt;
  place.end = end;
  const isPartial = ((batch[vnetAt] as number) & NEEDS_CSUM) !== 0;
  const checksum = isPartial ? pseudoHeaderSum(batch, place) : tcpChecksum(batch, place);
  batch.writeUInt16BE(checksum, transportAt + TCP_CHECKSUM_OFFSET);
}
