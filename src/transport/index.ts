/**
 * Transport: bytes between two agents, not their meaning.
 *
 * Bytes from TCP → stream.ts → frame-wire.ts (frames) → link.ts (back-pressure, one reason at the
 * end) → attach-wire.ts, peer-listener.ts, connect.ts (which connection is for what) → session.ts →
 * the owner's handlers; and back. Bounds are in limits.ts; the formats in
 * docs/protocol/transport.md.
 *
 * Invariants: lengths are bounded before anything is allocated; a malformed byte ends the link and
 * is told in one log line; nothing is dropped without being counted.
 */
export { PROTOCOL_VERSIONS, type ProbeAnswer, type VersionRange } from './attach-wire.js';
export { CHANNELS, type Channel } from './channels.js';
export {
  type ConnectOptions,
  connectSession,
  type ProbeOptions,
  type ProbeResult,
  probePeer,
} from './connect.js';
export { LinkError, type LinkErrorKind } from './errors.js';
export {
  encodeFrame,
  type Frame,
  FrameDecoder,
} from './frame-wire.js';
export { CHANNEL_LIMITS, type LinkLimits } from './limits.js';
export { Link, type LinkCloseReason, type LinkCounters, type LinkOptions } from './link.js';
export { type AcceptDecision, PeerListener, type PeerListenerOptions } from './peer-listener.js';
export { Session, type SessionCloseReason, type SessionInfo } from './session.js';
export type { Endpoint } from './stream.js';
