/**
 * How long threads waited for pages that were still elsewhere. In: faults and placed pages with the
 * time; out: which pages are waited for, latencies, and how long each vCPU stood. Time counts from
 * when the fault was seen here to when the page was there: the kernel's way to us, some ten
 * microseconds, is not in it. A thread waits for one page at a time, so its waits add up.
 */
import { Histogram, PAGE_SIZE_BYTES, type PageRange } from '../lib/index.js';

export interface FaultFigures {
  /** Waits that have ended, by whatever thread; their quantiles are in whole microseconds. */
  readonly faults: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly maxUs: number;
  /** By vCPU number, without the waits that go on. */
  readonly blockedUs: readonly number[];
  /** The same for all other threads of QEMU together; under KVM also the kernel's own. */
  readonly blockedElsewhereUs: number;
}

interface Wait {
  readonly threadId: number;
  readonly sinceUs: number;
}

export class FaultStatistics {
  readonly #vcpuOf = new Map<number, number>();
  readonly #waits = new Map<number, Wait[]>();
  readonly #latencies = new Histogram();
  readonly #blockedUs: number[];
  #blockedElsewhereUs = 0;

  /** The thread of each vCPU, by its number. */
  constructor(vcpuThreads: readonly number[]) {
    vcpuThreads.forEach((threadId, vcpu) => {
      this.#vcpuOf.set(threadId, vcpu);
    });
    this.#blockedUs = vcpuThreads.map(() => 0);
  }

  /** A thread waits for the page at `offset`. True if nobody has waited for that page so far. */
  faulted(offset: number, threadId: number, nowUs: number): boolean {
    const waits = this.#waits.get(offset);
    waits?.push({ threadId, sinceUs: nowUs });
    if (waits === undefined) this.#waits.set(offset, [{ threadId, sinceUs: nowUs }]);
    return waits === undefined;
  }

  /** Pages of `range` that are waited for, by offset. */
  waitedFor(range: PageRange): number[] {
    const { offset, length } = range;
    if (length === PAGE_SIZE_BYTES) return this.#waits.has(offset) ? [offset] : [];
    return [...this.#waits.keys()].filter((page) => page >= offset && page < offset + length);
  }

  /** The pages of `range` are there. Gives how long each wait for one of them was, microseconds. */
  placed(range: PageRange, nowUs: number): number[] {
    const ended: number[] = [];
    for (const offset of this.waitedFor(range)) {
      for (const wait of this.#waits.get(offset) ?? []) ended.push(this.#end(wait, nowUs));
      this.#waits.delete(offset);
    }
    return ended;
  }

  figures(): FaultFigures {
    return {
      faults: this.#latencies.count,
      p50Us: this.#latencies.quantile(0.5),
      p99Us: this.#latencies.quantile(0.99),
      maxUs: this.#latencies.max,
      blockedUs: [...this.#blockedUs],
      blockedElsewhereUs: this.#blockedElsewhereUs,
    };
  }

  #end({ threadId, sinceUs }: Wait, nowUs: number): number {
    const waitedUs = nowUs - sinceUs;
    this.#latencies.add(waitedUs);
    const vcpu = this.#vcpuOf.get(threadId);
    if (vcpu === undefined) this.#blockedElsewhereUs += waitedUs;
    else this.#blockedUs[vcpu] = (this.#blockedUs[vcpu] ?? 0) + waitedUs;
    return waitedUs;
  }
}
