/**
 * The flows by their keys, bounded. A full table forgets the least recently used flow that loses
 * nothing for this epoch; flows of earlier epochs hold nothing, so they always may be forgotten.
 */
import { FLOW_KEY_WORDS } from '../packet.js';
import { Flow, TcpState } from './flow.js';
import { EVICTION_TRIES_MAX } from './limits.js';

export class FlowTable {
  readonly #flowsMax: number;
  readonly #buckets: (Flow | undefined)[];
  readonly #mask: number;
  readonly #flows: Flow[] = [];
  #mostRecent: Flow | undefined;
  #leastRecent: Flow | undefined;
  #free: Flow | undefined;
  size = 0;

  constructor(flowsMax: number) {
    this.#flowsMax = flowsMax;
    let buckets = 64;
    while (buckets < flowsMax) buckets *= 2;
    this.#mask = buckets - 1;
    this.#buckets = new Array<Flow | undefined>(buckets).fill(undefined);
  }

  /** The flow of this key, which becomes the most recently used one. */
  find(key: Int32Array, hash: number): Flow | undefined {
    for (let flow = this.#buckets[hash & this.#mask]; flow; flow = flow.nextInBucket) {
      if (flow.hash === hash && sameKey(flow.key, key)) {
        if (flow !== this.#mostRecent) {
          this.#unlink(flow);
          this.#link(flow);
        }
        return flow;
      }
    }
    return undefined;
  }

  /** A new flow with a key that the table does not have, or undefined: full, and all are needed. */
  create(key: Int32Array, hash: number, epoch: number): Flow | undefined {
    const flow = this.#takeFree(epoch);
    if (flow === undefined) return undefined;
    flow.key.set(key);
    flow.hash = hash;
    const bucket = hash & this.#mask;
    flow.nextInBucket = this.#buckets[bucket];
    this.#buckets[bucket] = flow;
    this.#link(flow);
    this.size++;
    return flow;
  }

  /** Calls `visit` with every flow, most recently used first. */
  forEach(visit: (flow: Flow) => void): void {
    for (let flow = this.#mostRecent; flow; flow = flow.lessRecent) visit(flow);
  }

  #takeFree(epoch: number): Flow | undefined {
    if (this.#free === undefined && this.#flows.length < this.#flowsMax) {
      const flow = new Flow(this.#flows.length);
      this.#flows.push(flow);
      return flow;
    }
    if (this.#free === undefined) this.#evict(epoch);
    const flow = this.#free;
    this.#free = flow?.nextInBucket;
    return flow;
  }

  #evict(epoch: number): void {
    for (let tries = 0; tries < EVICTION_TRIES_MAX; tries++) {
      const flow = this.#leastRecent;
      if (flow === undefined) return;
      if (flow.isForgettable(epoch)) {
        this.#forget(flow);
        return;
      }
      // Needed, so it is as good as used: the next search begins behind it.
      this.#unlink(flow);
      this.#link(flow);
    }
  }

  #forget(flow: Flow): void {
    const bucket = flow.hash & this.#mask;
    let at = this.#buckets[bucket];
    if (at === flow) this.#buckets[bucket] = flow.nextInBucket;
    while (at !== undefined && at !== flow) {
      if (at.nextInBucket === flow) at.nextInBucket = flow.nextInBucket;
      at = at.nextInBucket;
    }
    this.#unlink(flow);
    flow.epoch = -1;
    flow.nextInBucket = this.#free;
    this.#free = flow;
    this.size--;
  }

  #link(flow: Flow): void {
    flow.lessRecent = this.#mostRecent;
    flow.moreRecent = undefined;
    if (this.#mostRecent === undefined) this.#leastRecent = flow;
    else this.#mostRecent.moreRecent = flow;
    this.#mostRecent = flow;
  }

  #unlink(flow: Flow): void {
    const { lessRecent, moreRecent } = flow;
    if (moreRecent === undefined) this.#mostRecent = lessRecent;
    else moreRecent.lessRecent = lessRecent;
    if (lessRecent === undefined) this.#leastRecent = moreRecent;
    else lessRecent.moreRecent = moreRecent;
  }
}

/** Makes a flow taken from the table ready for frames of its kind. */
export function prepareFlow(flow: Flow, isTcp: boolean, epoch: number): void {
  if (!isTcp) flow.tcp = undefined;
  else if (flow.tcp === undefined) flow.tcp = new TcpState();
  else flow.tcp.reset();
  flow.beginEpoch(epoch);
}

function sameKey(a: Int32Array, b: Int32Array): boolean {
  for (let word = 0; word < FLOW_KEY_WORDS; word++) {
    if (a[word] !== b[word]) return false;
  }
  return true;
}
