/**
 * ICMP echo requests and their replies (RFC 792; RFC 4443 sections 4.1 and 4.2).
 *
 * | field | offset | size | order | meaning |
 * | --- | --- | --- | --- | --- |
 * | type | 0 | 1 | | request 8, reply 0; over IPv6 128 and 129 |
 * | code | 1 | 1 | | 0 |
 * | checksum | 2 | 2 | BE | over IPv6 the kernel's business |
 * | identifier | 4 | 2 | BE | ours |
 * | sequence | 6 | 2 | BE | counts up |
 * | nonce | 8 | 8 | | ours: others on this host may ping, too |
 */
const BYTES = 16;
const NONCE_AT = 8;
export const NONCE_BYTES = BYTES - NONCE_AT;

export type Family = 4 | 6;

/** `nonce` has NONCE_BYTES; its first two are the identifier as well. */
export function encodeEcho(family: Family, nonce: Buffer, sequence: number): Buffer {
  const bytes = Buffer.alloc(BYTES);
  bytes.writeUInt8(family === 4 ? 8 : 128, 0);
  nonce.copy(bytes, 4, 0, 2);
  bytes.writeUInt16BE(sequence & 0xffff, 6);
  nonce.copy(bytes, NONCE_AT, 0, NONCE_BYTES);
  if (family === 4) bytes.writeUInt16BE(checksum(bytes), 2);
  return bytes;
}

/** Whether a packet, over IPv4 with its IP header, is a reply to an echo with this nonce. */
export function isEchoReply(family: Family, packet: Buffer, nonce: Buffer): boolean {
  const at = family === 4 ? ipHeaderBytes(packet) : 0;
  if (at === undefined || packet.length !== at + BYTES) return false;
  const message = packet.subarray(at);
  if (message.readUInt8(0) !== (family === 4 ? 0 : 129) || message.readUInt8(1) !== 0) return false;
  return message.subarray(NONCE_AT).equals(nonce);
}

function ipHeaderBytes(packet: Buffer): number | undefined {
  if (packet.length < 20 || packet.readUInt8(0) >>> 4 !== 4) return undefined;
  const bytes = (packet.readUInt8(0) & 15) * 4;
  return bytes >= 20 && bytes <= packet.length ? bytes : undefined;
}

/** RFC 1071, over an even number of bytes. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
