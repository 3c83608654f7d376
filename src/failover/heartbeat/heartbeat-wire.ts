/**
 * One heartbeat or its confirmation, as a datagram.
 *
 * | field | offset | size | order | meaning |
 * | --- | --- | --- | --- | --- |
 * | magic | 0 | 4 | BE | "COHB" |
 * | version | 4 | 1 | | 2 |
 * | kind | 5 | 1 | | 1 heartbeat, 2 confirmation |
 * | flags | 6 | 1 | | bit 0: the sender asks to be confirmed; bit 1: `session` is there; bit 2: `lan` |
 * | | 7 | 1 | | 0 |
 * | key id | 8 | 8 | | which secret: made from the one in the session's hello, and tells nothing of it |
 * | sequence | 16 | 8 | BE | heartbeat: its number; confirmation: that of what is confirmed |
 * | token | 24 | 8 | BE | the newest token that the sender knows |
 * | session | 32 | 8 | BE | the protected session that the sender speaks in, or 0 |
 * | mac | 40 | 16 | | HMAC-SHA-256 of bytes 0 to 39, cut; a key for each direction |
 *
 * A datagram that is anything else is dropped and counted: any host may send one. Nobody can make
 * or change one without the secret, which travels in the hello alone; that one which was seen
 * before is no news is the business of speech-guard.ts. Version 1 had the key in it and a CRC.
 */

export const HEARTBEAT_BYTES = 56;
/** Of the secret in the hello. */
export const HEARTBEAT_KEY_BYTES = 32;
export const HEARTBEAT_ID_BYTES = 8;
export const HEARTBEAT_MAC_BYTES = 16;

const MAGIC = 0x434f4842;
const VERSION = 2;
const ASKS = 1;
const HAS_SESSION = 2;
const HAS_LAN = 4;
const MAC_AT = 40;

/** The keys of one end of a session; heartbeat-seal-shell.ts makes them. */
export interface HeartbeatSeal {
  /** HEARTBEAT_ID_BYTES, the same at both ends. */
  readonly id: Buffer;
  /** HEARTBEAT_MAC_BYTES for bytes of ours. */
  sign(bytes: Buffer): Buffer;
  /** Whether `mac`, HEARTBEAT_MAC_BYTES long, is the other end's for these bytes. */
  isTheirs(bytes: Buffer, mac: Buffer): boolean;
}

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

export function encodeHeartbeat(message: HeartbeatMessage, seal: HeartbeatSeal): Buffer {
  const bytes = Buffer.alloc(HEARTBEAT_BYTES);
  bytes.writeUInt32BE(MAGIC, 0);
  bytes.writeUInt8(VERSION, 4);
  bytes.writeUInt8(message.kind === 'heartbeat' ? 1 : 2, 5);
  seal.id.copy(bytes, 8, 0, HEARTBEAT_ID_BYTES);
  bytes.writeBigUInt64BE(BigInt(message.sequence), 16);
  bytes.writeBigUInt64BE(BigInt(message.token), 24);
  if (message.kind === 'heartbeat') {
    const { asks, session, lan } = message;
    const flags = [asks ? ASKS : 0, session === undefined ? 0 : HAS_SESSION, lan ? HAS_LAN : 0];
    bytes.writeUInt8(
      flags.reduce((sum, flag) => sum + flag, 0),
      6,
    );
    bytes.writeBigUInt64BE(BigInt(session ?? 0), 32);
  }
  seal.sign(bytes.subarray(0, MAC_AT)).copy(bytes, MAC_AT);
  return bytes;
}

/** Undefined for anything that the other end's `encodeHeartbeat` does not make. */
export function decodeHeartbeat(bytes: Buffer, seal: HeartbeatSeal): HeartbeatMessage | undefined {
  if (bytes.length !== HEARTBEAT_BYTES || bytes.readUInt32BE(0) !== MAGIC) return undefined;
  // Before the dear part: most of what is not ours has another key.
  if (!bytes.subarray(8, 8 + HEARTBEAT_ID_BYTES).equals(seal.id)) return undefined;
  if (!seal.isTheirs(bytes.subarray(0, MAC_AT), bytes.subarray(MAC_AT))) return undefined;
  const kind = bytes.readUInt8(5);
  const flags = bytes.readUInt8(6);
  const sequence = readSafe(bytes, 16);
  const token = readSafe(bytes, 24);
  const session = readSafe(bytes, 32);
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
