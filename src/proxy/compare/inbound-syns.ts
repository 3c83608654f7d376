/**
 * Looks through inbound frames for the SYN-ACKs that answer a guest's SYN: they tell whether the
 * connection's windows are scaled (RFC 7323 section 2.2). Every other frame costs a few bytes' look.
 */
import { PACKET_TCP, type Packet, PROTOCOL_TCP, TCP_ACK, TCP_SYN } from '../packet.js';
import type { FlowTable } from './flow-table.js';

const LENGTH_BYTES = 4;
const SYN_ACK = TCP_SYN | TCP_ACK;

export function noteInboundSyns(
  batch: Buffer,
  vnetBytes: number,
  packet: Packet,
  flows: FlowTable,
): void {
  for (let start = 0; start < batch.length; ) {
    const at = start + LENGTH_BYTES + vnetBytes;
    const end = start + LENGTH_BYTES + batch.readUInt32BE(start);
    start = end;
    if (!mayBeSynAck(batch, at, end)) continue;
    packet.parse(batch, at, end, false);
    if (packet.kind !== PACKET_TCP || (packet.flags & SYN_ACK) !== SYN_ACK) continue;
    const tcp = flows.find(packet.key, packet.hash)?.tcp;
    if (tcp === undefined || tcp.scale >= 0 || tcp.scaleOffered < 0) continue;
    tcp.scale = packet.windowScale < 0 ? 0 : tcp.scaleOffered;
  }
}

/** True for every SYN-ACK; rarely for others. */
function mayBeSynAck(bytes: Buffer, at: number, end: number): boolean {
  let ipAt = at + 14;
  // Shorter frames have no TCP header. A VLAN tag is 4 bytes that begin with 0x81 or 0x88.
  if (end - ipAt < 40) return false;
  while (bytes[ipAt - 2] === 0x81 || (bytes[ipAt - 2] === 0x88 && bytes[ipAt - 1] === 0xa8)) {
    ipAt += 4;
    if (end - ipAt < 40) return false;
  }
  const first = bytes[ipAt] as number;
  if (first >> 4 !== 4) return first >> 4 === 6;
  if (bytes[ipAt + 9] !== PROTOCOL_TCP) return false;
  const flagsAt = ipAt + (first & 15) * 4 + 13;
  return flagsAt < end && ((bytes[flagsAt] as number) & SYN_ACK) === SYN_ACK;
}
