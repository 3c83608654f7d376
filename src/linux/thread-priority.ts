/** How soon the calling thread gets a processor, beside the other threads of a busy host. */
import { constants, getPriority, setPriority } from 'node:os';

/** Linux keeps a priority for each thread, and 0 names the caller's. */
const THIS_THREAD = 0;
let usual: number | undefined;

/**
 * Urgent: a guest stands still until this thread has done its part. What is started meanwhile
 * inherits it. Where it is not allowed (no CAP_SYS_NICE) nothing changes. Idempotent.
 */
export function setUrgent(urgent: boolean): void {
  try {
    if (urgent) {
      usual ??= getPriority(THIS_THREAD);
      setPriority(THIS_THREAD, Math.min(usual, constants.priority.PRIORITY_HIGH));
    } else if (usual !== undefined) {
      setPriority(THIS_THREAD, usual);
      usual = undefined;
    }
  } catch (error) {
    const { code } = (error as { info?: { code?: string } }).info ?? {};
    if (code !== 'EACCES' && code !== 'EPERM') throw error;
  }
}
