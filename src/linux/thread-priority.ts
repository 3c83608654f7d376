/**
 * How soon the calling thread gets a processor, beside the other threads of a busy host.
 *
 * A higher priority among normal threads is a larger share, not a sooner one: who wakes up waits
 * until the thread that has the processor has used its slice up, some milliseconds. A real-time
 * thread does not wait. Linux leaves normal threads a twentieth of each processor, whatever it does
 * (sched(7), "Limiting the CPU usage of real-time and deadline processes").
 *
 * Between the two, since Linux 6.12: a thread that asks for short slices goes before those with
 * longer ones when it wakes up, for no larger share (sched_setattr(2), `sched_runtime` of
 * SCHED_OTHER).
 */
import { arch, availableParallelism, constants, getPriority, setPriority } from 'node:os';
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

/** What the kernel takes at least. */
const SHORT_SLICE_NS = 100_000n;
/** `struct sched_attr` of sched_setattr(2), its first version: where its fields are. */
const SCHED_ATTR_BYTES = 48;
const SCHED_ATTR = { policy: 4, runtime: 24 } as const;
/** libc has no functions for them before glibc 2.41. */
const SCHED_CALLS: Readonly<Record<string, { readonly set: number; readonly get: number }>> = {
  x64: { set: 314, get: 315 },
  arm64: { set: 274, get: 275 },
};

/** sched_getattr, or sched_setattr, which has flags in the place of the size. */
const schedAttributes = libc.func(
  'int syscall(long number, int thread, void *attributes, unsigned int size, unsigned int flags)',
) as (number: number, thread: number, attributes: Buffer, size: number, flags: number) => number;

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

/**
 * Soon: the thread (by default the caller's) works for some microseconds at a time, and a guest or
 * its client waits for each. Older kernels take no notice. False if it stays as it was: it is not a
 * normal thread, or not ours.
 */
export function setShortSlice(thread = THIS_THREAD): boolean {
  const calls = SCHED_CALLS[arch()];
  const attributes = attributesOf(thread);
  if (calls === undefined || attributes?.readUInt32LE(SCHED_ATTR.policy) !== SCHED_OTHER) {
    return false;
  }
  attributes.writeBigUInt64LE(SHORT_SLICE_NS, SCHED_ATTR.runtime);
  return schedAttributes(calls.set, thread, attributes, 0, 0) === 0;
}

/** Nanoseconds, as the kernel knows it; undefined where it keeps none. */
export function sliceOf(thread = THIS_THREAD): number | undefined {
  return Number(attributesOf(thread)?.readBigUInt64LE(SCHED_ATTR.runtime) ?? 0) || undefined;
}

/** `struct sched_attr`; undefined if there is no such thread. */
function attributesOf(thread: number): Buffer | undefined {
  const calls = SCHED_CALLS[arch()];
  const attributes = Buffer.alloc(SCHED_ATTR_BYTES);
  if (calls === undefined) return undefined;
  const result = schedAttributes(calls.get, thread, attributes, SCHED_ATTR_BYTES, 0);
  return result < 0 ? undefined : attributes;
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
