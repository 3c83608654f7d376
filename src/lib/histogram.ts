/**
 * Latencies in constant memory: values below 128 are exact, above that each octave has 64 buckets,
 * so a quantile is at most 1.6 % too small. In: whole microseconds. Out: quantiles.
 */

const SUB_BUCKETS = 64;
const EXACT_BELOW = 2 * SUB_BUCKETS;
/** Larger values count as this one: 2^40 us are 12 days. */
const MAX_VALUE = 2 ** 40;

export class Histogram {
  readonly #counts = new Uint32Array(bucketOf(MAX_VALUE) + 1);
  #count = 0;
  #max = 0;

  /** Adds one value; negative ones and fractions are rounded to the nearest allowed one. */
  add(value: number): void {
    const whole = Math.min(Math.max(Math.round(value), 0), MAX_VALUE);
    const bucket = bucketOf(whole);
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#count++;
    if (whole > this.#max) this.#max = whole;
  }

  get count(): number {
    return this.#count;
  }

  get max(): number {
    return this.#max;
  }

  /**
   * The smallest recorded bucket that at least the fraction `q` of all values reach; 0 if empty.
   */
  quantile(q: number): number {
    const wanted = Math.max(1, Math.ceil(q * this.#count));
    let seen = 0;
    for (let bucket = 0; bucket < this.#counts.length; bucket++) {
      seen += this.#counts[bucket] ?? 0;
      if (seen >= wanted) return lowestOf(bucket);
    }
    return 0;
  }
}

function bucketOf(value: number): number {
  if (value < EXACT_BELOW) return value;
  const octave = Math.floor(Math.log2(value)) - Math.log2(SUB_BUCKETS);
  return octave * SUB_BUCKETS + Math.floor(value / 2 ** octave);
}

function lowestOf(bucket: number): number {
  if (bucket < EXACT_BELOW) return bucket;
  const octave = Math.floor(bucket / SUB_BUCKETS) - 1;
  return (bucket - octave * SUB_BUCKETS) * 2 ** octave;
}
