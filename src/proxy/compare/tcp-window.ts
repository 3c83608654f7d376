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
import { type Packet, PROTOCOL_TCP, TCP_ACK, TCP_SYN } from '../packet.js';
import { type Frame, hasAck, type TcpState } from './flow.js';
import { WINDOW_UPDATE_BYTES } from './limits.js';

const LENGTH_BYTES = 4;
const TCP_BYTES = 20;
const TIMESTAMPS_BYTES = 12;
const WINDOW_OFFSET = 14;
const CHECKSUM_OFFSET = 16;
/** virtio_net_hdr.flags: the checksum field holds the pseudo-header's sum only. */
const NEEDS_CSUM = 1;
/** Ethernet, two VLAN tags, an IPv6 header with 40 bytes of extensions, TCP. */
const TEMPLATE_BYTES_MAX = 256;

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

/** Keeps the headers of `frame`, which `packet` has parsed and which just left with less window. */
export function keepTemplate(tcp: TcpState, frame: Frame, packet: Packet): void {
  const { batch, start, transportAt } = frame;
  const headerBytes = transportAt - start;
  const tcpBytes = packet.timestampsAt > 0 ? TCP_BYTES + TIMESTAMPS_BYTES : TCP_BYTES;
  tcp.templateBytes = 0;
  if (headerBytes + tcpBytes > TEMPLATE_BYTES_MAX) return;
  tcp.template ??= Buffer.alloc(TEMPLATE_BYTES_MAX);
  const { template } = tcp;
  batch.copy(template, 0, start, transportAt + TCP_BYTES);
  template.writeUInt32BE(headerBytes + tcpBytes - LENGTH_BYTES, 0);
  template.fill(0, LENGTH_BYTES, packet.frameAt - start);
  const ipAt = packet.ipAt - start;
  if (packet.ipVersion === 4) {
    template.writeUInt16BE(headerBytes + tcpBytes - ipAt, ipAt + 2);
    template.writeUInt16BE(0, ipAt + 10);
    const sum = addBytes(0, template, ipAt, headerBytes);
    template.writeUInt16BE(foldedComplement(sum), ipAt + 10);
  } else {
    template.writeUInt16BE(headerBytes + tcpBytes - ipAt - 40, ipAt + 4);
  }
  template.writeUInt8((tcpBytes / 4) << 4, headerBytes + 12);
  template.writeUInt8(TCP_ACK, headerBytes + 13);
  template.writeUInt16BE(0, headerBytes + 18);
  if (packet.timestampsAt > 0) {
    const at = headerBytes + TCP_BYTES;
    template.writeUInt32BE(0x0101_080a, at);
    batch.copy(template, at + 4, packet.timestampsAt, packet.timestampsAt + 8);
  }
  tcp.templateBytes = headerBytes + tcpBytes;
  tcp.templateTcpAt = headerBytes;
  writeAddressSum(template, packet, { start, headerBytes, tcpBytes });
}

/** A batch of one packet that tells the client `window`, which counts as told. */
export function makeWindowUpdate(tcp: TcpState, window: number): Buffer | undefined {
  const { template, templateBytes } = tcp;
  if (template === undefined || templateBytes === 0) return undefined;
  const batch = Buffer.from(template.subarray(0, templateBytes));
  const tcpAt = tcp.templateTcpAt;
  batch.writeUInt32BE(tcp.high, tcpAt + 4);
  batch.writeUInt32BE(tcp.ack, tcpAt + 8);
  batch.writeUInt16BE(window, tcpAt + WINDOW_OFFSET);
  // The field holds the pseudo-header's sum.
  const sum = addBytes(0, batch, tcpAt, batch.length);
  batch.writeUInt16BE(foldedComplement(sum), tcpAt + CHECKSUM_OFFSET);
  tcp.toldWindow = window;
  tcp.toldEdge = seqAdd(tcp.ack, window << Math.max(tcp.scale, 0));
  tcp.clamped =
    tcp.scale < 0 ? window < tcp.window : seqDistance(tcp.edge, tcp.toldEdge) >= 1 << tcp.scale;
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
  batch.writeUInt16BE(window, transportAt + WINDOW_OFFSET);
  if (vnetBytes > 0 && ((batch[start + LENGTH_BYTES] as number) & NEEDS_CSUM) !== 0) return;
  const checksumAt = transportAt + CHECKSUM_OFFSET;
  const old = batch.readUInt16BE(checksumAt);
  const sum = (~old & 0xffff) + (~frame.window & 0xffff) + window;
  batch.writeUInt16BE(foldedComplement(sum), checksumAt);
}

/** Writes the sum of the pseudo-header, not complemented, where the checksum will be. */
function writeAddressSum(
  template: Buffer,
  packet: Packet,
  at: { start: number; headerBytes: number; tcpBytes: number },
): void {
  const ipAt = packet.ipAt - at.start;
  const addressesAt = packet.ipVersion === 4 ? ipAt + 12 : ipAt + 8;
  const addressesBytes = packet.ipVersion === 4 ? 8 : 32;
  const sum = addBytes(
    PROTOCOL_TCP + at.tcpBytes,
    template,
    addressesAt,
    addressesAt + addressesBytes,
  );
  template.writeUInt16BE(~foldedComplement(sum) & 0xffff, at.headerBytes + CHECKSUM_OFFSET);
}

/** Adds 16-bit words, one's complement; an even number of bytes. */
function addBytes(sum: number, bytes: Buffer, from: number, to: number): number {
  let total = sum;
  for (let at = from; at < to; at += 2) total += bytes.readUInt16BE(at);
  return total;
}

function foldedComplement(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + (folded >>> 16);
  return ~folded & 0xffff;
}
