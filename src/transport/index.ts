/**
 * Transport: bytes between two agents, and between the threads of one; not their meaning.
 *
 * Bytes from TCP → stream.ts → frame-wire.ts (frames) → link.ts (back-pressure, one reason at the
 * end) → attach-wire.ts, peer-listener.ts, connect.ts (which connection is for what) → session.ts →
 * the owner's handlers; and back. When a connection is lost: resume-core.ts (who has which frames),
 * link-resumption.ts, connect-again.ts, answer-resume.ts (the next connection). TLS around a
 * connection is secure-stream.ts, client-hello.ts (where it goes) and security/ (who may be there).
 * A link can go on in another thread (attach-link.ts), and worker-client.ts with serve-worker.ts
 * are how the threads of an agent talk. Bounds are in limits.ts; the formats in
 * docs/protocol/transport.md.
 *
 * Invariants: lengths are bounded before anything is allocated; a malformed byte ends the link and
 * is told in one log line; nothing is dropped without being counted; a session that is resumed has
 * lost, doubled and reordered nothing.
 */
export { attachLink, closeConnection, discardLink, reportLink } from './attach-link.js';
export {
  INSTANCE_BYTES,
  PROTOCOL_VERSIONS,
  type ProbeAnswer,
  type VersionRange,
} from './attach-wire.js';
export { CHANNELS, type Channel } from './channels.js';
export {
  type ConnectOptions,
  connectSession,
  type ProbeOptions,
  type ProbeResult,
  probePeer,
} from './connect.js';
export { type ErrorParcel, packError, unpackError } from './error-parcel.js';
export { LinkError, type LinkErrorKind } from './errors.js';
export {
  encodeFrame,
  type Frame,
  FrameDecoder,
  payloadCrc,
} from './frame-wire.js';
export { CHANNEL_LIMITS, type LinkLimits } from './limits.js';
export { Link } from './link.js';
export {
  type DetachedLink,
  type LinkCloseReason,
  type LinkConnection,
  type LinkCounters,
  type LinkKeeper,
  type LinkOptions,
  type LinkReport,
  NO_COUNTS,
} from './link-types.js';
export { type AcceptDecision, PeerListener, type PeerListenerOptions } from './peer-listener.js';
export { PLAIN } from './secure-stream.js';
export {
  type CertificateFacts,
  certificateFacts,
  certificatesOf,
  hasName,
  isSignedBy,
  namesOf,
  refusalOfCertificate,
  refusalOfTime,
  refusalOfUse,
  validityOf,
} from './security/certificate.js';
export {
  ANY_PEER_NAME,
  describeHandshakeFailure,
  type LinkSecurity,
  type PlainSecurity,
  refusalOfPeer,
  type TlsSecurity,
  tlsClientOptions,
  tlsServerOptions,
} from './security/link-security.js';
export { type MainThread, serveWorker } from './serve-worker.js';
export {
  type InterruptionHandlers,
  Session,
  type SessionCloseReason,
  type SessionInfo,
} from './session.js';
export { prepareWorker } from './spare-workers.js';
export { adoptReading, descriptorOf, type Endpoint } from './stream.js';
export { endWorkers, WorkerClient, type WorkerClientOptions } from './worker-client.js';
export type { Handlers } from './worker-wire.js';
