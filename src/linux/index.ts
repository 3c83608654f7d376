export {
  lockExclusive,
  punchHole,
  seekData,
  seekHole,
  seekSize,
  zeroRange,
} from './fallocate.js';
export { SystemCallError } from './libc.js';
