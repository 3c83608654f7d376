/**
 * Frames as hosts send them, for tests of what looks into packets: Ethernet with or without VLAN
 * tags, IPv4 or IPv6, TCP with options laid out byte by byte, ICMP errors that quote a segment. All
 * checksums are computed here by one slow sum of its own, not by the code under test.
 */
import { FLOW_KEY_WORDS, PACKET_TCP, Packet } from '../../src/proxy/packet.js';

export const FIN = 0x01;
export const SYN = 0x02;
export const RST = 0x04;
export const PSH = 0x08;
export const ACK = 0x10;

/** A connection between the guest and a remote end. */
export interface Flow {
  readonly version: 4 | 6;
  readonly guestIp: string;
  readonly remoteIp: string;
  readonly guestPort: number;
  readonly remotePort: number;
  /** Outer tag first, at most two. */
  readonly vlans: readonly number[];
  /** Bytes of virtio header in front of each frame. */
  readonly vnetBytes: number;
}

export interface Segment {
  readonly seq: number;
  readonly ack?: number;
  readonly flags: number;
  readonly options?: Buffer;
  readonly payload?: Buffer;
  readonly window?: number;
  /** The checksum field holds only the pseudo-header's sum, as offloading leaves it. */
  readonly needsCsum?: boolean;
}

const GUEST_MAC = Buffer.from('525400000001', 'hex');
const REMOTE_MAC = Buffer.from('525400000002', 'hex');

export const FLOW_V4: Flow = {
  version: 4,
  guestIp: '0a000002',
  remoteIp: '0a000009',
  guestPort: 80,
  remotePort: 40_000,
  vlans: [],
  vnetBytes: 0,
};

export const FLOW_V6: Flow = {
  ...FLOW_V4,
  version: 6,
  guestIp: 'fd000000000000000000000000000002',
  remoteIp: 'fd000000000000000000000000000009',
};

/** The key as packet.ts documents it, built from the flow instead of from a frame. */
export function flowKey(flow: Flow): Int32Array {
  const key = new Int32Array(FLOW_KEY_WORDS);
  key[0] = (flow.version << 8) | 6;
  key[1] = (flow.vlans[0] ?? 0) | ((flow.vlans[1] ?? 0) << 12);
  key[2] = (flow.guestPort << 16) | flow.remotePort;
  const words = flow.version === 4 ? 1 : 4;
  for (let word = 0; word < words; word++) {
    key[3 + word] = Buffer.from(flow.guestIp, 'hex').readInt32BE(word * 4);
    key[7 + word] = Buffer.from(flow.remoteIp, 'hex').readInt32BE(word * 4);
  }
  return key;
}

/** A segment as a frame (without the batch's length). */
export function tcpFrame(flow: Flow, fromGuest: boolean, segment: Segment): Buffer {
  const body = tcpBody(flow, fromGuest, segment);
  return ipFrame(flow, fromGuest, { protocol: 6, body, needsCsum: segment.needsCsum });
}

/** NOP, NOP, timestamps: 12 bytes. */
export function timestamps(value: number, echo: number): Buffer {
  const bytes = Buffer.from('0101080a0000000000000000', 'hex');
  bytes.writeUInt32BE(value, 4);
  bytes.writeUInt32BE(echo, 8);
  return bytes;
}

/** NOP, NOP, SACK with one to four blocks. */
export function sack(...edges: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 + edges.length * 4, 1);
  bytes.writeUInt8(5, 2);
  bytes.writeUInt8(2 + edges.length * 4, 3);
  for (const [index, edge] of edges.entries()) bytes.writeUInt32BE(edge, 4 + index * 4);
  return bytes;
}

/** An ICMP "fragmentation needed" or ICMPv6 "packet too big" that quotes a segment of the guest. */
export function icmpError(flow: Flow, segment: Segment, quotedTcpBytes = 1000): Buffer {
  const v4 = flow.version === 4;
  const untagged = { ...flow, vlans: [], vnetBytes: 0 };
  const quoted = tcpFrame(untagged, true, segment).subarray(14);
  const ipBytes = v4 ? 20 : 40;
  const header = Buffer.from(v4 ? '0304000000000578' : '0200000000000578', 'hex');
  const body = Buffer.concat([header, quoted.subarray(0, ipBytes + quotedTcpBytes)]);
  const seed = v4 ? 0 : pseudoSum(flow, false, 58, body.length);
  body.writeUInt16BE(~foldedSum(body, seed) & 0xffff, 2);
  return ipFrame(flow, false, { protocol: v4 ? 1 : 58, body });
}

/** True when the frame's TCP or ICMP checksum is what a receiver expects. */
export function transportChecksumValid(flow: Flow, frame: Buffer): boolean {
  const ipAt = flow.vnetBytes + 14 + flow.vlans.length * 4;
  const v4 = flow.version === 4;
  const end = v4 ? ipAt + frame.readUInt16BE(ipAt + 2) : ipAt + 40 + frame.readUInt16BE(ipAt + 4);
  const protocol = frame.readUInt8(v4 ? ipAt + 9 : ipAt + 6);
  const body = frame.subarray(ipAt + (v4 ? 20 : 40), end);
  const seed = protocol === 1 ? 0 : pseudoSum(flow, true, protocol, body.length);
  return foldedSum(body, seed) === 0xffff;
}

function tcpBody(flow: Flow, fromGuest: boolean, segment: Segment): Buffer {
  const { options = Buffer.alloc(0), payload = Buffer.alloc(0) } = segment;
  const optionBytes = Math.ceil(options.length / 4) * 4;
  const body = Buffer.alloc(20 + optionBytes + payload.length);
  body.writeUInt16BE(fromGuest ? flow.guestPort : flow.remotePort, 0);
  body.writeUInt16BE(fromGuest ? flow.remotePort : flow.guestPort, 2);
  body.writeUInt32BE(segment.seq, 4);
  body.writeUInt32BE(segment.ack ?? 0, 8);
  body.writeUInt8((20 + optionBytes) << 2, 12);
  body.writeUInt8(segment.flags, 13);
  body.writeUInt16BE(segment.window ?? 502, 14);
  body.set(options, 20);
  body.set(payload, 20 + optionBytes);
  const pseudo = pseudoSum(flow, fromGuest, 6, body.length);
  const checksum = segment.needsCsum === true ? pseudo : ~foldedSum(body, pseudo) & 0xffff;
  body.writeUInt16BE(checksum, 16);
  return body;
}

function ipFrame(
  flow: Flow,
  fromGuest: boolean,
  content: { protocol: number; body: Buffer; needsCsum?: boolean | undefined },
): Buffer {
  const { protocol, body } = content;
  const v4 = flow.version === 4;
  const vnet = Buffer.alloc(flow.vnetBytes);
  const macs = fromGuest ? [REMOTE_MAC, GUEST_MAC] : [GUEST_MAC, REMOTE_MAC];
  const tags = flow.vlans.map((vlan) => Buffer.from([0x81, 0, vlan >> 8, vlan & 0xff]));
  const type = Buffer.from(v4 ? '0800' : '86dd', 'hex');
  const header = v4
    ? Buffer.from('450000000001400040000000', 'hex')
    : Buffer.from('6000000000000040', 'hex');
  if (v4) header.writeUInt16BE(20 + body.length, 2);
  else header.writeUInt16BE(body.length, 4);
  header.writeUInt8(protocol, v4 ? 9 : 6);
  const ip = Buffer.concat([header, addresses(flow, fromGuest)]);
  if (v4) ip.writeUInt16BE(~foldedSum(ip, 0) & 0xffff, 10);
  if (content.needsCsum === true) vnet.writeUInt8(1, 0);
  return Buffer.concat([vnet, ...macs, ...tags, type, ip, body]);
}

function addresses(flow: Flow, fromGuest: boolean): Buffer {
  const ends = [Buffer.from(flow.guestIp, 'hex'), Buffer.from(flow.remoteIp, 'hex')];
  return Buffer.concat(fromGuest ? ends : ends.reverse());
}

function pseudoSum(flow: Flow, fromGuest: boolean, protocol: number, length: number): number {
  return foldedSum(addresses(flow, fromGuest), protocol + length);
}

/** Word by word, folded at each step: slow and obvious. */
function foldedSum(bytes: Buffer, seed: number): number {
  let sum = seed;
  for (let at = 0; at < bytes.length; at += 2) {
    sum += ((bytes[at] as number) << 8) | (bytes[at + 1] ?? 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum > 0xffff ? sum - 0xffff : sum;
}

/** The numbers of a TCP frame that translation is about. */
export interface Numbers {
  readonly seq: number;
  readonly ack: number;
  readonly flags: number;
  /** Undefined without timestamps option. */
  readonly value: number | undefined;
  readonly echo: number | undefined;
  readonly edges: readonly number[];
  readonly payload: Buffer;
}

/** Takes a TCP frame of `flow` apart. */
export function numbersOf(flow: Flow, frame: Buffer, fromGuest: boolean): Numbers {
  const packet = new Packet();
  packet.parse(frame, flow.vnetBytes, frame.length, fromGuest);
  if (packet.kind !== PACKET_TCP) throw new Error(`A frame of kind ${packet.kind} is no segment`);
  const { seq, ack, flags, timestampsAt, sackAt, sackBlocks, payloadAt, end } = packet;
  const edges: number[] = [];
  for (let edge = 0; edge < sackBlocks * 2; edge++)
    edges.push(frame.readUInt32BE(sackAt + edge * 4));
  return {
    seq,
    ack,
    flags,
    value: timestampsAt === 0 ? undefined : frame.readUInt32BE(timestampsAt),
    echo: timestampsAt === 0 ? undefined : frame.readUInt32BE(timestampsAt + 4),
    edges,
    payload: frame.subarray(payloadAt, end),
  };
}
