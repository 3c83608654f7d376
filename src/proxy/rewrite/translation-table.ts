/**
 * The translations by flow key, and what is forgotten when.
 *
 *     open     its numbers differ: kept until it closes, whatever happens
 *     inert    nothing differs, only its timestamps are watched: may be forgotten at any time. Its
 *              remote end then may have to wait until the SVM's clock has caught up
 *     closed   kept for a while, in case that a last segment was lost
 *
 * At the bound, room for an inert one is made by the one that closed first, else by the oldest
 * inert one, else there is none. An opened one is refused: see limits.ts.
 *
 * Hashed with chains, so that looking up a packet allocates nothing.
 */
import { FLOW_KEY_WORDS } from '../packet.js';
import type { Translation } from './translation.js';

/** Chains stay short up to a few times as many translations. */
const BUCKETS = 16_384;

export class TranslationTable {
  readonly #flowsMax: number;
  readonly #closedMax: number;
  #buckets: (Translation | undefined)[] = [];
  #size = 0;
  /** In order of age. */
  readonly #inert = new Set<Translation>();
  readonly #closed = new Set<Translation>();

  constructor(flowsMax: number, closedMax: number) {
    this.#flowsMax = flowsMax;
    this.#closedMax = closedMax;
  }

  get size(): number {
    return this.#size;
  }

  get closedCount(): number {
    return this.#closed.size;
  }

  get inertCount(): number {
    return this.#inert.size;
  }

  get full(): boolean {
    return this.#size >= this.#flowsMax;
  }

  find(key: Int32Array, hash: number): Translation | undefined {
    let found = this.#buckets[hash % BUCKETS];
    while (found !== undefined && !(found.hash === hash && keysEqual(found.key, key))) {
      found = found.nextInBucket;
    }
    return found;
  }

  /** Adds one whose key is not in the table; false when there is no room for it. */
  add(translation: Translation): boolean {
    if (this.full) {
      const evicted = first(this.#closed) ?? first(this.#inert);
      if (evicted === undefined) return false;
      this.remove(evicted);
    }
    // Never made unless there is something to translate.
    if (this.#buckets.length === 0) this.#buckets = new Array(BUCKETS).fill(undefined);
    const bucket = translation.hash % BUCKETS;
    translation.nextInBucket = this.#buckets[bucket];
    this.#buckets[bucket] = translation;
    this.#size++;
    if (translation.inert) this.#inert.add(translation);
    return true;
  }

  remove(translation: Translation): void {
    const bucket = translation.hash % BUCKETS;
    const next = translation.nextInBucket;
    let at = this.#buckets[bucket];
    if (at === translation) this.#buckets[bucket] = next;
    else {
      while (at !== undefined && at.nextInBucket !== translation) at = at.nextInBucket;
      if (at === undefined) return;
      at.nextInBucket = next;
    }
    translation.nextInBucket = undefined;
    this.#size--;
    this.#inert.delete(translation);
    this.#closed.delete(translation);
  }

  /** One that was inert is so no more. */
  activate(translation: Translation): void {
    this.#inert.delete(translation);
  }

  /** The connection has ended: forgotten at once if nothing differs, else after a while. */
  close(translation: Translation): void {
    if (translation.inert) {
      this.remove(translation);
      return;
    }
    this.#closed.add(translation);
    if (this.#closed.size <= this.#closedMax) return;
    const oldest = first(this.#closed);
    if (oldest !== undefined) this.remove(oldest);
  }

  /** Calls `visit` with each translation; the table must not be changed meanwhile. */
  forEach(visit: (translation: Translation) => void): void {
    for (const head of this.#buckets) {
      for (let at = head; at !== undefined; at = at.nextInBucket) visit(at);
    }
  }

  clear(): void {
    this.#buckets = [];
    this.#size = 0;
    this.#inert.clear();
    this.#closed.clear();
  }
}

function keysEqual(a: Int32Array, b: Int32Array): boolean {
  for (let word = 0; word < FLOW_KEY_WORDS; word++) {
    if (a[word] !== b[word]) return false;
  }
  return true;
}

function first<T>(set: ReadonlySet<T>): T | undefined {
  for (const item of set) return item;
  return undefined;
}
