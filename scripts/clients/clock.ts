/**
 * CLOCK_MONOTONIC in whole microseconds. Unlike `performance.now()` it does not start at zero in
 * each process, so times taken by the load clients, the orchestrator and the bench can be
 * subtracted.
 */
export function nowUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}
