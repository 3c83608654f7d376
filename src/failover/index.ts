/**
 * Who is alive and who may speak.
 *
 *     failure-detector.ts   heartbeats, lost links, probe answers -> a verdict for the node's core
 *     heartbeat/            datagrams between the hosts -> the peer's view, and the guard thread
 *     permit/               the right to speak, and the lease that the TAP's thread looks at
 *     witness/              the third party: etcd, a shared folder, an operator's command
 *     gateway/              whether this host reaches its own LAN
 *
 * The peer's datagrams -> heartbeat/speech-guard.ts -> permit/speech-permit.ts <-> witness/ -> the
 * lease's end in shared memory -> `OutputLease.allows` before each piece of output (I4).
 */
export { type DetectorVerdict, FailureDetector, type ProbeResult } from './failure-detector.js';
export { GatewayProbe, type GatewayProbeOptions } from './gateway/gateway-probe-shell.js';
export { GuardClient, type GuardClientOptions } from './heartbeat/guard-client-shell.js';
export {
  createAliveMemory,
  type GuardNews,
  type GuardSettings,
  GuardShell,
  type GuardStatus,
  type HeartbeatPeer,
  stampAlive,
} from './heartbeat/guard-shell.js';
export { createHeartbeatSeal, type HeartbeatSide } from './heartbeat/heartbeat-seal-shell.js';
export {
  decodeHeartbeat,
  encodeHeartbeat,
  HEARTBEAT_BYTES,
  HEARTBEAT_ID_BYTES,
  HEARTBEAT_KEY_BYTES,
  HEARTBEAT_MAC_BYTES,
  type HeartbeatMessage,
  type HeartbeatSeal,
} from './heartbeat/heartbeat-wire.js';
export { PeerMonitor, type PeerReason, type PeerView } from './heartbeat/peer-monitor.js';
export {
  type GuardInput,
  type GuardOptions,
  type GuardOutput,
  SpeechGuard,
} from './heartbeat/speech-guard.js';
export { ANY_TOKEN, LAN_LOST_AGAIN_US, MAIN_SILENCE_US_MAX, UNLIMITED_US } from './limits.js';
export {
  createLeaseMemory,
  type LeaseMemory,
  LeaseWriter,
  leaseUs,
  OutputLease,
} from './permit/lease.js';
export {
  type PermitInput,
  type PermitOptions,
  type PermitOutput,
  type PermitState,
  SpeechPermit,
} from './permit/speech-permit.js';
export { TokenFile } from './permit/token-file-shell.js';
export {
  NO_WITNESS_WARNING,
  type OpenWitnessOptions,
  openWitness,
} from './witness/open-witness-shell.js';
export type {
  Witness,
  WitnessAnswer,
  WitnessIdentity,
  WitnessRequest,
} from './witness/witness.js';
