/** The only callers of the C library. Throws `SystemCallError`; keeps no state between calls. */
export { monotonicUs } from './clock.js';
export { duplicateDescriptor } from './descriptor.js';
export {
  lockExclusive,
  punchHole,
  seekData,
  seekHole,
  seekSize,
  zeroRange,
} from './fallocate.js';
export { SystemCallError } from './libc.js';
export { createMemoryFile, dataExtents, discardPages } from './memory-file.js';
export { MemoryMap } from './memory-map.js';
export { type Mapping, PagemapReader, PagemapScanner } from './pagemap.js';
export { ProcessMemory } from './process-memory.js';
export {
  openTap,
  TAP_BATCH_BYTES_MAX,
  TAP_BATCH_FRAMES_MAX,
  type Tap,
  type TapWriteResult,
} from './tap.js';
export { probeSoftDirty, probeUserfaultfd } from './tracking-probe.js';
