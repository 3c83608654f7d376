export { SystemCallError } from './libc.js';
export {
  openTap,
  TAP_BATCH_BYTES_MAX,
  TAP_BATCH_FRAMES_MAX,
  type Tap,
  type TapWriteResult,
} from './tap.js';
