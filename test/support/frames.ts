/** Frames that are no TCP segments: datagrams, fragments, ARP and other Ethernet. */
import { FLOW_V4, type Flow } from './packets.js';

export const UDP = 17;
export const ICMP = 1;

export interface Ip {
  readonly protocol: number;
  readonly body: Buffer;
  /** Identification; the default is 1. */
  readonly id?: number;
  /** Fragments: offset in bytes, and whether more follow. */
  readonly offset?: number;
  readonly more?: boolean;
  readonly ttl?: number;
}

/** An IP packet from the guest; checksums of the IP header are not computed: nobody looks. */
export function ipFrame(flow: Flow, ip: Ip): Buffer {
  const { protocol, body, id = 1, offset = 0, more = false, ttl = 64 } = ip;
  const addresses = Buffer.from(flow.guestIp + flow.remoteIp, 'hex');
  if (flow.version === 4) {
    const header = Buffer.alloc(12);
    header.writeUInt8(0x45, 0);
    header.writeUInt16BE(20 + body.length, 2);
    header.writeUInt16BE(id, 4);
    header.writeUInt16BE((offset / 8) | (more ? 0x2000 : 0), 6);
    header.writeUInt8(ttl, 8);
    header.writeUInt8(protocol, 9);
    return ethernet(flow, 0x0800, Buffer.concat([header, addresses, body]));
  }
  const isFragment = offset > 0 || more;
  const extension = Buffer.alloc(isFragment ? 8 : 0);
  if (isFragment) {
    extension.writeUInt8(protocol, 0);
    extension.writeUInt16BE(offset | (more ? 1 : 0), 2);
    extension.writeUInt32BE(id, 4);
  }
  const header = Buffer.alloc(8);
  header.writeUInt32BE(0x6000_0000, 0);
  header.writeUInt16BE(extension.length + body.length, 4);
  header.writeUInt8(isFragment ? 44 : protocol, 6);
  header.writeUInt8(ttl, 7);
  return ethernet(flow, 0x86dd, Buffer.concat([header, addresses, extension, body]));
}

export function udpBody(flow: Flow, payload: Buffer | string, checksum = 0): Buffer {
  const bytes = Buffer.from(payload);
  const header = Buffer.alloc(8);
  header.writeUInt16BE(flow.guestPort, 0);
  header.writeUInt16BE(flow.remotePort, 2);
  header.writeUInt16BE(8 + bytes.length, 4);
  header.writeUInt16BE(checksum, 6);
  return Buffer.concat([header, bytes]);
}

export function udpFrame(flow: Flow, payload: Buffer | string, ip: Partial<Ip> = {}): Buffer {
  return ipFrame(flow, { protocol: UDP, body: udpBody(flow, payload), ...ip });
}

/** An echo reply, or for IPv6 the same in ICMPv6. */
export function echoFrame(flow: Flow, identifier: number, payload: Buffer | string): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt8(flow.version === 4 ? 0 : 129, 0);
  header.writeUInt16BE(identifier, 4);
  const body = Buffer.concat([header, Buffer.from(payload)]);
  return ipFrame(flow, { protocol: flow.version === 4 ? ICMP : 58, body });
}

/** The IP packets that a host makes of one body, with an MTU that lets `room` bytes through. */
export function fragmentFrames(flow: Flow, ip: Ip, room: number): Buffer[] {
  const frames: Buffer[] = [];
  for (let offset = 0; offset < ip.body.length; offset += room) {
    const body = ip.body.subarray(offset, offset + room);
    frames.push(ipFrame(flow, { ...ip, body, offset, more: offset + room < ip.body.length }));
  }
  return frames;
}

/** Any payload with an EtherType of its own. */
export function ethernet(flow: Flow, type: number, payload: Buffer): Buffer {
  const header = Buffer.from('525400000002525400000001', 'hex');
  const tags = flow.vlans.map((vlan) => Buffer.from([0x81, 0, vlan >> 8, vlan & 0xff]));
  const typeBytes = Buffer.from([type >> 8, type & 0xff]);
  return Buffer.concat([Buffer.alloc(flow.vnetBytes), header, ...tags, typeBytes, payload]);
}

export function arpFrame(fill = 0): Buffer {
  return ethernet(FLOW_V4, 0x0806, Buffer.alloc(28, fill));
}

/** A neighbour advertisement. */
export function advertisementFrame(flow: Flow, fill = 0): Buffer {
  const body = Buffer.alloc(24, fill);
  body.writeUInt8(136, 0);
  return ipFrame(flow, { protocol: 58, body });
}
