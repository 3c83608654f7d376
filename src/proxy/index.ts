/**
 * The guest's network: everything it says leaves only when no failover can contradict it, and
 * everything it hears reaches the other guest too.
 *
 *     LAN  -> TAP -> Nic -> FrameQueue -> GuestPort -> QEMU -> guest
 *                     '-> onInbound (to the peer) ...> InboundLog ...> Nic.inject
 *     guest -> QEMU -> GuestPort -> AddressLearner, onOutput -> OutputGate -> FrameQueue -> TAP ->
 *     LAN
 *
 * The unit is the batch (be32 length, virtio_net_hdr, frame; back to back): see batch-wire.ts. A
 * frame may be as the guest's stack made it: longer than the MTU, its checksum unfinished. Read in
 * this order:
 *
 *     limits.ts           every bound
 *     batch-wire.ts       the format; checks of the peer's batches
 *     output-gate.ts      silent, holding, open: who may speak and when (decides)
 *     inbound-log.ts      secondary: what to deliver again after an apply (decides)
 *     packet.ts           where a frame's parts lie, and to which flow it belongs
 *     opened-flow-wire.ts a connection that both guests opened with numbers of their own
 *     translation-wire.ts connections that are translated for the LAN, for the next secondary
 *     flow-key-wire.ts    a flow's key in both
 *     checksum.ts         Internet checksums, in full and by difference
 *     compare/            primary: what leaves because both guests say it (decides)
 *     rewrite/            such connections for the SVM, after a failover for the LAN (decides)
 *     address-learner.ts  which addresses the guest has
 *     announce-wire.ts    ARP, neighbour advertisement, RARP for a failover
 *     recent-flows.ts     connections whose remote ends were heard last
 *     recent-output.ts    what the SVM has said last, for a failover
 *     nudge-wire.ts       what wakes both ends of them after a failover
 *     frame-queue.ts      batches on their way to the TAP or to QEMU
 *     link-shell.ts       the TAP's host side: bridge, queue length, up
 *     nic-shell.ts        all of it on one TAP and one QEMU
 *
 * Beside the data path, capture/ writes what passes it to files and reads such files:
 *
 *     pcap-wire.ts, pcapng-wire.ts, verdict-wire.ts   the formats
 *     capture-writer.ts   CaptureTap, which the data path calls -> bytes by file
 *     capture-shell.ts    the files of a running capture
 *     capture-merge.ts    files -> batches and epochs' edges, in the order of time
 *     offline-compare.ts  these -> the comparer -> a report
 *
 * Epochs: epoch N runs between checkpoint N and N+1, and checkpoint N+1 is the state at its end.
 * Output of epoch N leaves when checkpoint N+1 is committed; inbound of epoch N is forgotten then.
 *
 * Invariants: I1 (no output before its commit) is asserted in output-gate.ts. On a secondary the
 * TAP exists and takes no frame until `open` or `hold`. A batch is never modified once it is made,
 * but by the comparer, which owns what it holds, and by `FlowRewriter.outbound` as it leaves.
 */
export {
  AddressLearner,
  decodeAddresses,
  encodeAddresses,
  type GuestAddress,
} from './address-learner.js';
export { encodeAnnouncement } from './announce-wire.js';
export {
  checkBatch,
  countFrames,
  encodeBatch,
  forEachFrame,
} from './batch-wire.js';
export { CaptureFileDecoder } from './capture/capture-decoder.js';
export type { EpochEdge } from './capture/capture-merge.js';
export {
  CaptureFiles,
  type CapturePoint,
  type CaptureSummary,
  runCapture,
} from './capture/capture-shell.js';
export {
  CAPTURE_FILES,
  type CaptureFile,
  type CaptureTap,
  CaptureWriter,
  captureFileName,
} from './capture/capture-writer.js';
export { EDGES_MAX } from './capture/limits.js';
export {
  type CompareReport,
  type Finding,
  type FlowCount,
  makeOfflineCompare,
  type OfflineCompare,
  type OfflineCompareOptions,
} from './capture/offline-compare.js';
export type { CapturedFrame } from './capture/pcap-wire.js';
export {
  CAPTURE_SIDES,
  type CaptureEdge,
  type CaptureSide,
  type CaptureVerdict,
  decodeVerdictLine,
  VERDICT_LINE_BYTES_MAX,
  type VerdictLine,
} from './capture/verdict-wire.js';
export {
  adjustChecksum16,
  adjustChecksum32,
  ipv4HeaderChecksum,
  NO_CHECKSUM,
  pseudoHeaderSum,
  replaceUint16,
  replaceUint32,
  type SegmentPlace,
  tcpChecksum,
} from './checksum.js';
export {
  type CheckpointReason,
  type CompareLimits,
  Comparer,
  type ComparerCounters,
  type ComparerOptions,
  type ComparerSink,
  DEFAULT_COMPARE_LIMITS,
  formatFlow,
  formatMismatch,
  type Mismatch,
  type MismatchKind,
  type Verdict,
} from './compare/index.js';
export { InboundLog, type InboundLogCounters, type InboundLogOptions } from './inbound-log.js';
export {
  BATCH_BYTES_MAX,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  TRANSLATION_RECORDS_MAX,
  TRANSLATION_SWEEP_MS,
  VNET_HEADER_BYTES,
} from './limits.js';
export { Nic, type NicOptions, type NicStats, type OutputLeaseView } from './nic-shell.js';
export { encodeNudge, type Nudge } from './nudge-wire.js';
export {
  decodeOpenedFlow,
  encodeOpenedFlow,
  OPENED_FLOW_BYTES,
  type OpenedFlow,
} from './opened-flow-wire.js';
export {
  type GateCounters,
  type GateLimits,
  type GateState,
  type GateVerdict,
  OutputGate,
} from './output-gate.js';
export { type RecentFlow, RecentFlows } from './recent-flows.js';
export { RecentOutput } from './recent-output.js';
export {
  FlowRewriter,
  type FlowRewriterCounters,
  type FlowRewriterOptions,
} from './rewrite/flow-rewriter.js';
export {
  decodeTranslations,
  encodeTranslations,
  type TranslationRecord,
  type TranslationState,
} from './translation-wire.js';
