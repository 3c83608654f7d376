/**
 * How soon the calling thread gets a processor, beside the other threads of a busy host.
 *
 * A higher priority among normal threads is a larger share, not a sooner one: who wakes up waits
 * until the thread that has the processor has used its slice up, some milliseconds. A real-time
 * thread does not wait. Linux leaves normal threads a twentieth of each processor, whatever it does
 * (sched(7), "Limiting the CPU usage of real-time and deadline processes").
 */
import { availableParallelism, constants, getPriority, setPriority } from 'node:os';
import { libc } from './libc.js';

/** Linux keeps priorities for each thread, and 0 names the caller's. */
const THIS_THREAD = 0;
const SCHED_OTHER = 0;
const SCHED_RR = 2;
/** What is started meanwhile is as usual. It stays: taking it back needs CAP_SYS_NICE. */
const SCHED_RESET_ON_FORK = 0x4000_0000;
/** Of 1 to 99: before all normal threads, behind whatever else a host has of real-time ones. */
const LOWEST_REAL_TIME = 1;

const schedSetscheduler = libc.func(
  'int sched_setscheduler(int thread, int policy, const void *parameters)',
) as (thread: number, policy: number, parameters: Uint8Array) => number;

let usual: number | undefined;

/**
 * Urgent: a guest stands still until this thread has done its part. Where real-time threads are not
 * allowed (RLIMIT_RTPRIO), or there is one processor for this thread and the guest, it is a higher
 * priority; and if that is not allowed either nothing changes. Idempotent.
 */
export function setUrgent(urgent: boolean): void {
  if (urgent) {
    if (availableParallelism() > 1 && setPolicy(SCHED_RR, LOWEST_REAL_TIME)) return;
    usual ??= getPriority(THIS_THREAD);
    changePriority(Math.min(usual, constants.priority.PRIORITY_HIGH));
    return;
  }
  setPolicy(SCHED_OTHER, 0);
  if (usual === undefined) return;
  changePriority(usual);
  usual = undefined;
}

/** `struct sched_param` is one int. False where that is not allowed. */
function setPolicy(policy: number, priority: number): boolean {
  const parameters = new Uint8Array(Int32Array.of(priority).buffer);
  return schedSetscheduler(THIS_THREAD, policy | SCHED_RESET_ON_FORK, parameters) === 0;
}

function changePriority(priority: number): void {
  try {
    setPriority(THIS_THREAD, priority);
  } catch (error) {
    const { code } = (error as { info?: { code?: string } }).info ?? {};
    if (code !== 'EACCES' && code !== 'EPERM') throw error;
  }
}
