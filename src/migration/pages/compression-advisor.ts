/**
 * Whether compressing pages pays just now, from what was measured on the way.
 *
 * In: what coding a batch took and saved, what the link took in while it was the bottleneck, and
 * the time. Out: for each batch whether to compress it. With a link of L bytes/s, a coder of C
 * bytes/s and a ratio r (coded by raw), pages cross at L without the coder and at min(C, L / r)
 * with it: coding and sending overlap. That gain must exceed one bound to switch compression on,
 * and fall below a lower one to switch it off; switches have a distance. While it is off, one batch
 * now and then is compressed as a probe, since the guest's data and the host's load change.
 *
 * Measured values fade with a half-life, so that the last seconds count.
 */
import { assert } from '../../lib/index.js';

export interface CompressionAdvisorOptions {
  /** Batches that are coded at the same time: threads that are free for it. */
  readonly coders?: number;
  /** Gain from which on compression is switched on; 1 is no gain. */
  readonly onGain?: number;
  /** Gain below which it is switched off. */
  readonly offGain?: number;
  /** Microseconds between two switches, and between two probes while it is off. */
  readonly pauseUs?: number;
  /** Microseconds after which a measurement counts half. */
  readonly halfLifeUs?: number;
}

/** `probe`: compress this one, and use the result if it is shorter; the next is not compressed. */
export type CompressionAdvice = 'plain' | 'compress' | 'probe';

export interface CompressionFigures {
  readonly compressing: boolean;
  /** Bytes per second; undefined until measured. */
  readonly linkRate: number | undefined;
  readonly coderRate: number | undefined;
  /** Coded bytes by raw bytes; 1 where coding did not help. */
  readonly ratio: number | undefined;
  /** How many times faster pages cross with compression than without. */
  readonly gain: number | undefined;
}

const DEFAULTS = {
  coders: 1,
  onGain: 1.2,
  offGain: 1.05,
  pauseUs: 500_000,
  halfLifeUs: 2_000_000,
} as const;

export class CompressionAdvisor {
  readonly #options: Required<CompressionAdvisorOptions>;
  readonly #link: FadingRatio;
  readonly #coder: FadingRatio;
  readonly #ratio: FadingRatio;
  #compressing = false;
  #changedUs: number | undefined;
  #probedUs: number | undefined;

  constructor(options: CompressionAdvisorOptions = {}) {
    this.#options = { ...DEFAULTS, ...options };
    const { onGain, offGain, coders, halfLifeUs } = this.#options;
    assert(offGain >= 1 && onGain > offGain, `Gains ${onGain} and ${offGain} leave no hysteresis`);
    assert(coders >= 1 && halfLifeUs > 0, `${coders} coders, half-life ${halfLifeUs} us`);
    this.#link = new FadingRatio(halfLifeUs);
    this.#coder = new FadingRatio(halfLifeUs);
    this.#ratio = new FadingRatio(halfLifeUs);
  }

  /** What to do with the next batch. Each `probe` is to be answered by a `coded`. */
  advise(nowUs: number): CompressionAdvice {
    const { onGain, offGain, pauseUs } = this.#options;
    const gain = this.figures.gain;
    const mayChange = this.#changedUs === undefined || nowUs - this.#changedUs >= pauseUs;
    if (gain !== undefined && mayChange && gain !== clamp(gain, offGain, onGain)) {
      const compressing = gain > onGain;
      if (compressing !== this.#compressing) this.#changedUs = nowUs;
      this.#compressing = compressing;
    }
    if (this.#compressing) return 'compress';
    if (this.#probedUs !== undefined && nowUs - this.#probedUs < pauseUs) return 'plain';
    this.#probedUs = nowUs;
    return 'probe';
  }

  /** A batch was compressed; `codedBytes` is `rawBytes` where it became no shorter. */
  coded(sample: { rawBytes: number; codedBytes: number; durationUs: number }, nowUs: number): void {
    this.#coder.add(sample.rawBytes, Math.max(sample.durationUs, 1), nowUs);
    this.#ratio.add(Math.min(sample.codedBytes, sample.rawBytes), sample.rawBytes, nowUs);
  }

  /** `bytes` left while there was more to send all the time, for `busyUs`. Idle time is no rate. */
  sent(sample: { bytes: number; busyUs: number }, nowUs: number): void {
    if (sample.busyUs > 0) this.#link.add(sample.bytes, sample.busyUs, nowUs);
  }

  get figures(): CompressionFigures {
    const link = this.#link.value;
    const coder = this.#coder.value;
    const ratio = this.#ratio.value;
    const perSecond = (rate: number | undefined, times = 1): number | undefined =>
      rate === undefined ? undefined : rate * 1e6 * times;
    const known = link !== undefined && link > 0 && coder !== undefined && ratio !== undefined;
    return {
      compressing: this.#compressing,
      linkRate: perSecond(link),
      coderRate: perSecond(coder, this.#options.coders),
      ratio,
      gain: known
        ? Math.min((coder * this.#options.coders) / link, 1 / Math.max(ratio, 1e-3))
        : undefined,
    };
  }
}

/** A quotient of two sums in which older summands count less and less. */
class FadingRatio {
  readonly #halfLifeUs: number;
  #above = 0;
  #below = 0;
  #atUs = 0;

  constructor(halfLifeUs: number) {
    this.#halfLifeUs = halfLifeUs;
  }

  get value(): number | undefined {
    return this.#below > 0 ? this.#above / this.#below : undefined;
  }

  add(above: number, below: number, nowUs: number): void {
    const kept = 0.5 ** (Math.max(0, nowUs - this.#atUs) / this.#halfLifeUs);
    this.#above = this.#above * kept + above;
    this.#below = this.#below * kept + below;
    this.#atUs = nowUs;
  }
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}
