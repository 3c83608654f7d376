/** Small, pure, without project meaning: what any file may use. */
export { AssertionFailed, assert, unreachable } from './assert.js';
export { type BitRun, bitRuns, nextSetBit } from './bit-runs.js';
export { ByteReader } from './byte-reader.js';
export { ByteWriter } from './byte-writer.js';
export type { Core } from './core.js';
export { crc32c } from './crc32c.js';
export { joinCrc32c, restCrc32c } from './crc32c-join.js';
export { type Deferred, deferred } from './deferred-shell.js';
export { ColoError, describeError, OperatorError, ProtocolError } from './errors.js';
export { Histogram } from './histogram.js';
export type { Logger } from './logger.js';
export { appendRange, countBytes, intersectRanges, uniteRanges } from './page-ranges.js';
export { PAGE_SIZE_BYTES, type PageRange } from './pages.js';
export { Prng } from './prng.js';
export { seqAdd, seqBefore, seqDistance, seqMax, seqMin } from './seq32.js';
export { Timeline } from './timeline.js';
