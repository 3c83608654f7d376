/**
 * The window that the client is told: never more room than both guests have.
 *
 * The *edge* is the sequence number up to which the client may send: acknowledgement plus window.
 * What leaves says at most the smaller of the two guests' edges; otherwise the client could send
 * what the SVM has no room for, and after a failover such a byte would be a protocol error. But
 * an edge that the client was told is never taken back because of the SVM. The window field is
 * lowered in place, and the checksum with it (RFC 1624).
 *
 * A lowered window may have to be raised again when the PVM has nothing to say: then a packet of
 * ours does it, a copy of the headers of the last one that left, without data.
 *
 *     scale known     edges are compared (RFC 7323 section 2.3); windows are rounded down, so that
 *                     an edge may seem to move back by less than one unit of the scale
 *     scale unknown   (the SYN was not seen) the smaller of the two window fields: since the SVM
 *                     has acknowledged at least as much, its edge is not passed for any scale
 *
 * Windows in SYNs are never scaled.
 */
import { seqAdd, seqBefore, seqDistance, seqMax, seqMin } from '../../lib/index.js';
import {
  ipv4HeaderChecksum,
  NO_CHECKSUM,
  replaceUint16,
  TCP_CHECKSUM_OFFSET,
  tcpChecksum,
} from '../checksum.js';
import { type Packet, TCP_ACK, TCP_SYN } from '../packet.js';
import { type Frame, hasAck, type TcpState, TEMPLATE_BYTES_MAX, WindowTemplate } from './flow.js';
import { WINDOW_UPDATE_BYTES } from './limits.js';

const LENGTH_BYTES = 4;
const IPV6_BYTES = 40;
const TCP_BYTES = 20;
const TIMESTAMPS_BYTES = 12;
/** NOP, NOP, timestamps, 10. */
const TIMESTAMPS_OPTION = 0x0101_080a;
const WINDOW_OFFSET = 14;
const URGENT_OFFSET = 18;
/** virtio_net_hdr.flags: the checksum field holds the pseudo-header's sum only. */
const NEEDS_CSUM = 1;

/**
 * Before `frame` leaves: lowers its window as far as it must be, and notes what the client is told.
 * True if it was lowered.
 */
export function lowerWindow(tcp: TcpState, frame: Frame, vnetBytes: number): boolean {
  const { window } = frame;
  if ((frame.flags & TCP_SYN) !== 0) {
    const told = Math.min(window, tcp.svmSynWindow);
    if (told < window) writeWindow(frame, told, vnetBytes);
    if (hasAck(frame)) note(tcp, frame, { told, scale: 0 });
    return false;
  }
  if (!hasAck(frame)) return false;
  const scale = Math.max(tcp.scale, 0);
  const told = tcp.scale < 0 ? Math.min(window, tcp.svmWindow) : boundedWindow(tcp, frame, scale);
  if (told < window) writeWindow(frame, told, vnetBytes);
  return note(tcp, frame, { told, scale });
}

/** `frame` leaves as the PVM made it, together with a checkpoint. */
export function tellWindow(tcp: TcpState, frame: Frame): void {
  if (!hasAck(frame)) return;
  const scale = (frame.flags & TCP_SYN) === 0 ? Math.max(tcp.scale, 0) : 0;
  note(tcp, frame, { told: frame.window, scale });
}

/**
 * The window that the client should be told now in a packet of its own, or -1. Only for a flow
 * that is `clamped`.
 */
export function windowToOffer(tcp: TcpState): number {
  if (tcp.scale < 0) {
    const window = Math.min(tcp.window, tcp.svmWindow);
    const growth = window - tcp.toldWindow;
    return growth > 0 && growth >= Math.min(WINDOW_UPDATE_BYTES, tcp.toldWindow) ? window : -1;
  }
  const edge = seqMin(tcp.edge, tcp.svmEdge);
  const growth = seqDistance(edge, tcp.toldEdge);
  const window = seqDistance(edge, tcp.ack) >> tcp.scale;
  if (window <= tcp.toldWindow) return -1;
  return growth >= WINDOW_UPDATE_BYTES || tcp.toldWindow === 0 ? window : -1;
}

/** Keeps the headers of `frame`, which `packet` has parsed and which leaves with less window. */
export function keepTemplate(tcp: TcpState, frame: Frame, packet: Packet): void {
  const { batch, start, transportAt } = frame;
  const headerBytes = transportAt - start;
  const tcpBytes = packet.timestampsAt > 0 ? TCP_BYTES + TIMESTAMPS_BYTES : TCP_BYTES;
  tcp.template ??= new WindowTemplate();
  const { template } = tcp;
  const { bytes } = template;
  const end = headerBytes + tcpBytes;
  if (end > TEMPLATE_BYTES_MAX) {
    template.end = 0;
    return;
  }
  template.ipVersion = packet.ipVersion;
  template.ipAt = packet.ipAt - start;
  template.transportAt = headerBytes;
  template.end = end;
  batch.copy(bytes, 0, start, transportAt + TCP_BYTES);
  bytes.writeUInt32BE(end - LENGTH_BYTES, 0);
  bytes.fill(0, LENGTH_BYTES, packet.frameAt - start);
  if (template.ipVersion === 4) {
    bytes.writeUInt16BE(end - template.ipAt, template.ipAt + 2);
    bytes.writeUInt16BE(ipv4HeaderChecksum(bytes, template.ipAt), template.ipAt + 10);
  } else {
    bytes.writeUInt16BE(end - template.ipAt - IPV6_BYTES, template.ipAt + 4);
  }
  bytes.writeUInt8((tcpBytes / 4) << 4, headerBytes + 12);
  bytes.writeUInt8(TCP_ACK, headerBytes + 13);
  bytes.writeUInt16BE(0, headerBytes + URGENT_OFFSET);
  if (packet.timestampsAt === 0) return;
  const at = headerBytes + TCP_BYTES;
  bytes.writeUInt32BE(TIMESTAMPS_OPTION, at);
  batch.copy(bytes, at + 4, packet.timestampsAt, packet.timestampsAt + 8);
}

/** A batch of one packet that tells the client `window`, which counts as told. */
export function makeWindowUpdate(tcp: TcpState, window: number): Buffer | undefined {
  const { template } = tcp;
  if (template === undefined || template.end === 0) return undefined;
  const batch = Buffer.from(template.bytes.subarray(0, template.end));
  const { transportAt } = template;
  batch.writeUInt32BE(tcp.high, transportAt + 4);
  batch.writeUInt32BE(tcp.ack, transportAt + 8);
  batch.writeUInt16BE(window, transportAt + WINDOW_OFFSET);
  batch.writeUInt16BE(tcpChecksum(batch, template), transportAt + TCP_CHECKSUM_OFFSET);
  const scale = Math.max(tcp.scale, 0);
  tcp.toldWindow = window;
  tcp.toldEdge = seqAdd(tcp.ack, window << scale);
  tcp.clamped = window < tcp.window;
  return batch;
}

/** The largest window field whose edge passes neither guest's, unless the client was told more. */
function boundedWindow(tcp: TcpState, frame: Frame, scale: number): number {
  const limit = tcp.toldKnown ? seqMax(tcp.svmEdge, tcp.toldEdge) : tcp.svmEdge;
  const room = seqDistance(limit, frame.ack);
  return Math.min(frame.window, Math.max(room, 0) >> scale);
}

/** Notes what the client is told with `frame`; true if that is less than the frame said. */
function note(
  tcp: TcpState,
  frame: Frame,
  { told, scale }: { told: number; scale: number },
): boolean {
  const { ack, window } = frame;
  // An older segment, out of order: it tells the client nothing new.
  if (tcp.ackKnown && seqBefore(ack, tcp.ack)) return false;
  const edge = seqAdd(ack, told << scale);
  tcp.ackKnown = true;
  tcp.ack = ack;
  tcp.window = window;
  tcp.edge = seqAdd(ack, window << scale);
  tcp.toldEdge = tcp.toldKnown ? seqMax(tcp.toldEdge, edge) : edge;
  tcp.toldWindow = told;
  tcp.toldKnown = true;
  tcp.clamped = told < window;
  return tcp.clamped;
}

function writeWindow(frame: Frame, window: number, vnetBytes: number): void {
  const { batch, start, transportAt } = frame;
  const isPartial = vnetBytes > 0 && ((batch[start + LENGTH_BYTES] as number) & NEEDS_CSUM) !== 0;
  const checksumAt = isPartial ? NO_CHECKSUM : transportAt + TCP_CHECKSUM_OFFSET;
  replaceUint16(batch, transportAt + WINDOW_OFFSET, window, checksumAt);
}
