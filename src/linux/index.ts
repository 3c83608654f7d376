/** The only callers of the C library. Throws `SystemCallError`; keeps no state between calls. */

export { isCached, sendFileNow, sendNow } from './cached-send.js';
export { Uplink, type UplinkOptions } from './carrier.js';
export { bootTimeUs, monotonicUs } from './clock.js';
export { duplicateDescriptor } from './descriptor.js';
export { syncDirectory, writeDurably } from './durable-file.js';
export {
  isRangeLocked,
  lockFile,
  punchHole,
  seekData,
  seekHole,
  seekSize,
  zeroRange,
} from './fallocate.js';
export { fileState, knownSize } from './file-state.js';
export { GuestPort, type GuestPortFds } from './guest-port.js';
export { openIcmpSocket } from './icmp-socket.js';
export { SystemCallError } from './libc.js';
export {
  createMemoryFile,
  createSealedMemoryFile,
  dataExtents,
  discardPages,
} from './memory-file.js';
export { MemoryMap } from './memory-map.js';
export { DEADLINE_SLOTS, OutputDeadline } from './output-deadline.js';
export { PacketDevice } from './packet-device.js';
export { dropCached, readCached } from './page-cache.js';
export { type Mapping, PagemapReader, PagemapScanner } from './pagemap.js';
export { PeerMemory, peerProcess } from './peer-memory.js';
export { closePolls, Poll } from './poll.js';
export { ProcessLife } from './process-life.js';
export { ProcessMemory } from './process-memory.js';
export { setSendBuffer } from './socket-buffer.js';
export { socketPair } from './socket-pair.js';
export { openTap, type Tap } from './tap.js';
export { smoothedRoundTripUs } from './tcp-info.js';
export { setShortSlice, setUrgent, sliceOf } from './thread-priority.js';
export { probeSoftDirty, probeUserfaultfd } from './tracking-probe.js';
export { encodeUnixAddress, UnixDatagramSender } from './unix-datagram.js';
export { decodeFaults, encodeFault, type PageFault, Userfaultfd } from './userfaultfd.js';
