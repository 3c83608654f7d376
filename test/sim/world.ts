/**
 * Virtual time: one queue of events for both nodes, the network, the guests and the clients.
 *
 * In: `schedule`. Out: the events, in order of time and, at the same time, of scheduling. All
 * randomness of a run comes from one seed; each part draws from a stream of its own, so that a
 * change in one part disturbs the others as little as possible.
 */
import { assert, Prng } from '../../src/lib/index.js';

/** Of one run; most need some ten thousand. */
const EVENTS_MAX = 1_000_000;

interface Event {
  readonly atUs: number;
  readonly order: number;
  readonly run: () => void;
}

/** One line of the trace of a run. */
export interface TraceLine {
  readonly atUs: number;
  readonly who: string;
  readonly text: string;
}

export class World {
  readonly seed: number;
  nowUs = 0;
  /** Events carried out so far. */
  events = 0;
  readonly #heap: Event[] = [];
  #order = 0;
  #streams = 0;
  readonly #sink: ((line: TraceLine) => void) | undefined;

  /** `sink` receives the trace; without it no line is even formatted. */
  constructor(seed: number, sink?: (line: TraceLine) => void) {
    this.seed = seed;
    this.#sink = sink;
  }

  /** A stream of random numbers of its own; call in a fixed order. */
  stream(): Prng {
    this.#streams += 1;
    return new Prng(Math.imul(this.seed ^ 0x9e3779b9, 0x85ebca6b) + this.#streams * 0x61c88647);
  }

  trace(who: string, text: () => string): void {
    this.#sink?.({ atUs: this.nowUs, who, text: text() });
  }

  schedule(delayUs: number, run: () => void): void {
    this.#order += 1;
    this.#push({ atUs: this.nowUs + Math.max(0, Math.round(delayUs)), order: this.#order, run });
  }

  /** Carries out events until `done` says so (asked after each) or `untilUs` is reached. */
  run(untilUs: number, done: () => boolean): void {
    for (;;) {
      const next = this.#heap[0];
      if (next === undefined || next.atUs > untilUs) {
        this.nowUs = untilUs;
        return;
      }
      this.#pop();
      this.nowUs = next.atUs;
      this.events += 1;
      assert(this.events < EVENTS_MAX, `More than ${EVENTS_MAX} events: something goes in circles`);
      next.run();
      if (done()) return;
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(event);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      const above = heap[parent] as Event;
      if (!isBefore(event, above)) break;
      heap[index] = above;
      index = parent;
    }
    heap[index] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as Event;
    if (heap.length === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      const right = heap[child + 1];
      if (right !== undefined && isBefore(right, heap[child] as Event)) child += 1;
      const below = heap[child] as Event;
      if (!isBefore(below, last)) break;
      heap[index] = below;
      index = child;
    }
    heap[index] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atUs < b.atUs || (a.atUs === b.atUs && a.order < b.order);
}
