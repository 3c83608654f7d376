/**
 * What postcopy costs the guest: faults, how long each waited, how long each vCPU stood still.
 *
 * Latencies are counted in buckets, eight to each doubling, so that a percentile is known to 9 %.
 */

const BUCKETS_PER_OCTAVE = 8;
/** Up to 2^32 microseconds. */
const BUCKETS = 32 * BUCKETS_PER_OCTAVE;

export interface FaultReport {
  /** Pages that were waited for. */
  readonly faults: number;
  /** Microseconds; undefined without a fault. */
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  readonly maxUs: number;
  /** By vCPU, microseconds. */
  readonly blockedUs: readonly number[];
}

/** vCPUs that are counted; those beyond are not. */
const VCPUS_MAX = 1024;

export class FaultStatistics {
  readonly #buckets = new Uint32Array(BUCKETS + 1);
  readonly #blockedUs: number[] = [];
  #faults = 0;
  #maxUs = 0;

  served(latencyUs: number): void {
    const index = Math.round(Math.log2(Math.max(1, latencyUs)) * BUCKETS_PER_OCTAVE);
    const bucket = Math.min(BUCKETS, index);
    this.#buckets[bucket] = (this.#buckets[bucket] ?? 0) + 1;
    this.#faults += 1;
    this.#maxUs = Math.max(this.#maxUs, latencyUs);
  }

  blocked(vcpu: number, totalUs: number): void {
    if (vcpu < 0 || vcpu >= VCPUS_MAX) return;
    while (this.#blockedUs.length <= vcpu) this.#blockedUs.push(0);
    this.#blockedUs[vcpu] = totalUs;
  }

  report(): FaultReport {
    return {
      faults: this.#faults,
      p50Us: this.#percentile(0.5),
      p99Us: this.#percentile(0.99),
      maxUs: this.#maxUs,
      blockedUs: [...this.#blockedUs],
    };
  }

  #percentile(part: number): number | undefined {
    let left = Math.ceil(this.#faults * part);
    if (left === 0) return undefined;
    for (const [index, count] of this.#buckets.entries()) {
      left -= count;
      if (left <= 0) return Math.round(2 ** (index / BUCKETS_PER_OCTAVE));
    }
    return undefined;
  }
}
