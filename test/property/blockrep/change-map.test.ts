/** The change map, killed at any of its stores, never forgets a changed cluster. */
import test from 'ava';
import fc from 'fast-check';
import { ChangeMap } from '../../../src/blockrep/generation/change-map.js';
import { DIRTY_CLUSTER_BYTES as CLUSTER } from '../../../src/blockrep/limits.js';
import { changeMapMemory, watchStores } from '../../support/change-map-memory.js';

const CLUSTERS = 70;
const SIZE = (CLUSTERS - 1) * CLUSTER + 512;
const BOOTS = [1, 2].map((n) => `${n}0000000-2222-4333-8444-555555555555`);
const GENERATIONS = [1, 2, 3].map((n) => `${n}000000a-aaaa-4bbb-8ccc-dddddddddddd`);

type Step =
  | { readonly kind: 'write'; readonly offset: number; readonly length: number }
  | { readonly kind: 'edge' | 'commit' | 'kill' | 'shutdown' | 'promote' | 'alone' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      offset: fc.nat(SIZE - 1),
      length: fc.integer({ min: 1, max: 40 * CLUSTER }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom('edge' as const, 'commit' as const) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'kill' as const,
        'shutdown' as const,
        'promote' as const,
        'alone' as const,
      ),
    }),
  },
);

/** A host with a disk of version numbers; every state that the peer has is remembered. */
class Host {
  readonly image = new Uint32Array(CLUSTERS);
  readonly common = new Map<string, Uint32Array>();
  #memory = changeMapMemory(SIZE);
  #map: ChangeMap;
  #boot = 0;
  #generation = 0;
  #epoch = 1;
  /** Edges whose commit is on its way, in order. */
  #pending: { readonly epoch: number; readonly state: Uint32Array }[] = [];
  #version = 1;
  readonly #fail: (what: string) => void;
  stores = 0;
  useful = 0;

  constructor(fail: (what: string) => void) {
    this.#fail = fail;
    this.#map = this.#open(0);
  }

  do(step: Step): void {
    switch (step.kind) {
      case 'write': {
        const length = Math.min(step.length, SIZE - step.offset);
        this.#map.mark(step.offset, length);
        const last = Math.floor((step.offset + length - 1) / CLUSTER);
        this.#version += 1;
        this.image.fill(this.#version, Math.floor(step.offset / CLUSTER), last + 1);
        break;
      }
      case 'edge':
        this.#epoch += 1;
        this.#pending.push({ epoch: this.#epoch, state: this.image.slice() });
        this.#map.edge(this.#epoch);
        break;
      case 'commit':
        this.#commit();
        break;
      case 'alone':
        this.#map.sessionOver();
        this.#pending = [];
        this.#generation = (this.#generation + 1) % GENERATIONS.length;
        break;
      case 'promote':
        this.#pending = [];
        this.#remember(this.#epoch, this.image);
        this.#map.begin(GENERATIONS[this.#generation] as string, this.#epoch);
        break;
      case 'kill':
        this.#pending = [];
        this.#map = this.#open(this.#boot);
        break;
      case 'shutdown':
        this.#pending = [];
        this.#map.markClean();
        this.#map = this.#open(1 - this.#boot);
        break;
    }
    this.check();
  }

  /** What an agent would find that is started after a kill right now. */
  check(): void {
    const bytes = changeMapMemory(SIZE, this.#memory);
    const map = new ChangeMap(bytes, { sizeBytes: SIZE, bootId: BOOTS[this.#boot] as string });
    const { base } = map.state;
    if (base === undefined) return;
    const common = this.common.get(`${base.generation} ${base.epoch}`);
    if (common === undefined) {
      this.#fail(`a base that nobody has: ${base.generation} ${base.epoch}`);
      return;
    }
    this.useful += 1;
    const marked = new Set<number>();
    for (const { offset, length } of map.ranges()) {
      for (let at = offset; at < offset + length; at += CLUSTER) marked.add(at / CLUSTER);
    }
    for (let cluster = 0; cluster < CLUSTERS; cluster++) {
      if (this.image[cluster] !== common[cluster] && !marked.has(cluster)) {
        this.#fail(`cluster ${cluster} was forgotten after ${this.stores} stores`);
      }
    }
  }

  #commit(): void {
    const edge = this.#pending.shift();
    if (edge === undefined) return;
    const { epoch, state } = edge;
    // The peer has it before anybody here is told.
    this.#remember(epoch, state);
    this.#map.committed(GENERATIONS[this.#generation] as string, epoch);
  }

  #remember(epoch: number, state: Uint32Array): void {
    this.common.set(`${GENERATIONS[this.#generation]} ${epoch}`, state.slice());
  }

  #open(boot: number): ChangeMap {
    this.#memory = changeMapMemory(SIZE, this.#memory);
    this.#boot = boot;
    const watched = watchStores(this.#memory, () => {
      this.stores += 1;
      this.check();
    });
    return new ChangeMap(watched, { sizeBytes: SIZE, bootId: BOOTS[boot] as string });
  }
}

test('a change map killed at any store never loses a changed cluster', (t) => {
  let useful = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 50 }), (steps) => {
      const problems: string[] = [];
      const host = new Host((what) => problems.push(what));
      host.do({ kind: 'promote' });
      for (const each of steps) host.do(each);
      useful += host.useful;
      if (problems.length > 0) throw new Error(problems[0]);
    }),
    { numRuns: 150, includeErrorInReport: true },
  );
  t.true(useful > 1000, `only ${useful} looks found a map to check`);
});

test('a map that is never killed has no more than what changed since its base', (t) => {
  const writes = fc.array(fc.record({ offset: fc.nat(SIZE - 1), length: fc.nat(3 * CLUSTER) }));
  fc.assert(
    fc.property(fc.array(writes, { minLength: 1, maxLength: 6 }), (epochs) => {
      const options = { sizeBytes: SIZE, bootId: BOOTS[0] as string };
      const map = new ChangeMap(changeMapMemory(SIZE), options);
      map.begin(GENERATIONS[0] as string, 0);
      for (const [epoch, list] of epochs.entries()) {
        const expected = new Set<number>();
        for (const { offset, length } of list) {
          const end = Math.min(offset + length, SIZE);
          map.mark(offset, end - offset);
          for (let c = Math.floor(offset / CLUSTER); c * CLUSTER < end && length > 0; c++) {
            expected.add(c);
          }
        }
        let found = 0;
        for (const { offset, length } of map.ranges()) {
          for (let at = offset; at < offset + length; at += CLUSTER) {
            found += 1;
            t.true(expected.has(at / CLUSTER));
          }
        }
        t.is(found, expected.size);
        map.edge(epoch + 1);
        map.committed(GENERATIONS[0] as string, epoch + 1);
      }
    }),
    { numRuns: 50 },
  );
});
