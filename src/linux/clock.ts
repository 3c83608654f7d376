/** CLOCK_MONOTONIC in whole microseconds: the only clock of the shells. */
export function monotonicUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}
