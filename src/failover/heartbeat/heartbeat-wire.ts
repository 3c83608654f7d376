/**
 * One heartbeat or its confirmation, as a datagram.
 *
 * | field | offset | size | order | meaning |
 * | --- | --- | --- | --- | --- |
 * | magic | 0 | 4 | BE | "COHB" |
 * | version | 4 | 1 | | 1 |
 * | kind | 5 | 1 | | 1 heartbeat, 2 confirmation |
 * | flags | 6 | 1 | | bit 0: the sender asks to be confirmed; bit 1: `session` is there; bit 2: `lan` |
 * | | 7 | 1 | | 0 |
 * | key | 8 | 16 | | of this pair, told in the session's hello; others are ignored |
 * | sequence | 24 | 8 | BE | heartbeat: its number; confirmation: that of what is confirmed |
 * | token | 32 | 8 | BE | the newest token that the sender knows |
 * | session | 40 | 8 | BE | the protected session that the sender speaks in, or 0 |
 * | crc | 48 | 4 | BE | CRC-32C of bytes 0 to 47 |
 *
 * A datagram that is anything else is dropped and counted: any host may send one. The key keeps off
 * who has not seen it; it does not keep off who can read the replication link.
 */
import { crc32c } from '../../lib/index.js';

export const HEARTBEAT_BYTES = 52;
export const HEARTBEAT_KEY_BYTES = 16;

const MAGIC = 0x434f4842;
const VERSION = 1;
const ASKS = 1;
const HAS_SESSION = 2;
const HAS_LAN = 4;
const CRC_AT = 48;

export type HeartbeatMessage =
  | {
      readonly kind: 'heartbeat';
      readonly sequence: number;
      readonly asks: boolean;
      readonly token: number;
      readonly session: number | undefined;
      /** The sender has a gateway to ask, and that one answers. */
      readonly lan: boolean;
    }
  | { readonly kind: 'confirmation'; readonly sequence: number; readonly token: number };

/** `key` has HEARTBEAT_KEY_BYTES. */
export function encodeHeartbeat(message: HeartbeatMessage, key: Buffer): Buffer {
  const bytes = Buffer.alloc(HEARTBEAT_BYTES);
  bytes.writeUInt32BE(MAGIC, 0);
  bytes.writeUInt8(VERSION, 4);
  bytes.writeUInt8(message.kind === 'heartbeat' ? 1 : 2, 5);
  key.copy(bytes, 8, 0, HEARTBEAT_KEY_BYTES);
  bytes.writeBigUInt64BE(BigInt(message.sequence), 24);
  bytes.writeBigUInt64BE(BigInt(message.token), 32);
  if (message.kind === 'heartbeat') {
    const { asks, session, lan } = message;
    const flags = [asks ? ASKS : 0, session === undefined ? 0 : HAS_SESSION, lan ? HAS_LAN : 0];
    bytes.writeUInt8(
      flags.reduce((sum, flag) => sum + flag, 0),
      6,
    );
    bytes.writeBigUInt64BE(BigInt(session ?? 0), 40);
  }
  bytes.writeUInt32BE(crc32c(bytes.subarray(0, CRC_AT)), CRC_AT);
  return bytes;
}

/** Undefined for anything that `encodeHeartbeat` with this key does not make. */
export function decodeHeartbeat(bytes: Buffer, key: Buffer): HeartbeatMessage | undefined {
  if (bytes.length !== HEARTBEAT_BYTES || bytes.readUInt32BE(0) !== MAGIC) return undefined;
  if (bytes.readUInt32BE(CRC_AT) !== crc32c(bytes.subarray(0, CRC_AT))) return undefined;
  if (!bytes.subarray(8, 8 + HEARTBEAT_KEY_BYTES).equals(key)) return undefined;
  const kind = bytes.readUInt8(5);
  const flags = bytes.readUInt8(6);
  const sequence = readSafe(bytes, 24);
  const token = readSafe(bytes, 32);
  const session = readSafe(bytes, 40);
  if (bytes.readUInt8(4) !== VERSION || bytes.readUInt8(7) !== 0) return undefined;
  if (sequence === undefined || token === undefined || session === undefined) return undefined;
  if (kind === 2) {
    return flags === 0 && session === 0 ? { kind: 'confirmation', sequence, token } : undefined;
  }
  const hasSession = (flags & HAS_SESSION) !== 0;
  if (kind !== 1 || flags > ASKS + HAS_SESSION + HAS_LAN || (!hasSession && session !== 0))
    return undefined;
  return {
    kind: 'heartbeat',
    sequence,
    asks: (flags & ASKS) !== 0,
    token,
    session: hasSession ? session : undefined,
    lan: (flags & HAS_LAN) !== 0,
  };
}

/** Undefined beyond what a number holds exactly. */
function readSafe(bytes: Buffer, at: number): number | undefined {
  const value = bytes.readBigUInt64BE(at);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}
