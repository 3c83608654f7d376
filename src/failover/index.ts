/**
 * Who is alive and who may speak.
 *
 * heartbeats, lost links and probe answers -> failure-detector.ts -> a verdict for the node's core.
 * The witness and fencing tokens of DESIGN section 6 will stand beside it.
 */
export { type DetectorVerdict, FailureDetector, type ProbeResult } from './failure-detector.js';
