/**
 * Online verification of two model disks while the guest writes and epochs are applied later: what
 * it says of every cluster is true at the edge that it speaks of, and a repair makes them equal.
 */
import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import fc from 'fast-check';
import {
  DIRTY_CLUSTER_BYTES as CLUSTER,
  type DiskOperation,
  DiskVerifier,
  ReplicatedDisk,
} from '../../../src/blockrep/index.js';
import { Prng } from '../../../src/lib/index.js';
import { ResyncPair } from '../../support/resync-pair.js';
import { clustersIn, differingClusters, SparseDisk } from '../../support/sparse-disk.js';

interface Plan {
  readonly seed: number;
  readonly clusters: number;
  readonly tail: number;
  readonly planted: number;
  /** Guest writes per hundred messages. */
  readonly writes: number;
  /** Turns of the event loop until an epoch is applied. */
  readonly lag: number;
}

const plan: fc.Arbitrary<Plan> = fc.record({
  seed: fc.nat(),
  clusters: fc.integer({ min: 1, max: 40 }),
  tail: fc.constantFrom(512, CLUSTER),
  planted: fc.constantFrom(0, 1, 5),
  writes: fc.constantFrom(0, 30, 150),
  lag: fc.nat(30),
});

class Pair {
  readonly source: SparseDisk;
  readonly target: SparseDisk;
  readonly disk: ReplicatedDisk;
  readonly written = new Set<number>();
  readonly #random: Prng;
  readonly #plan: Plan;
  readonly #inFlight = new Map<Promise<void>, Set<number>>();
  #epoch: DiskOperation[] = [];
  #paused = false;
  #number = 1;

  constructor(plan: Plan) {
    this.#plan = plan;
    this.#random = new Prng(plan.seed);
    const sizeBytes = (plan.clusters - 1) * CLUSTER + plan.tail;
    this.source = new SparseDisk(sizeBytes);
    this.target = new SparseDisk(sizeBytes);
    for (let cluster = 0; cluster < plan.clusters; cluster++) {
      const offset = cluster * CLUSTER;
      const data = Buffer.alloc(Math.min(CLUSTER, sizeBytes - offset), this.#below(3));
      // Zeroes with space on one side, a hole on the other.
      for (const image of [this.source, this.target]) {
        if (data[0] !== 0 || this.#below(2) === 0) image.fill(offset, data);
      }
    }
    for (let i = 0; i < plan.planted; i++) {
      const image = this.#below(2) === 0 ? this.source : this.target;
      image.fill(512 * this.#below(sizeBytes / 512), Buffer.alloc(1, 77));
    }
    for (const image of [this.source, this.target]) image.delay = () => this.#below(3);
    this.disk = new ReplicatedDisk({
      base: this.source,
      onWrite: (operation) => {
        this.#epoch.push(operation);
        return undefined;
      },
    });
    this.disk.setMode('forwarding');
  }

  guest(): void {
    if (this.#paused) return;
    if (this.#below(100) >= this.#plan.writes) return;
    const { sizeBytes } = this.source;
    const offset = 512 * this.#below(sizeBytes / 512);
    const length = Math.min(sizeBytes - offset, 512 * (1 + this.#below(200)));
    const clusters = new Set(clustersIn(offset, length));
    for (const busy of this.#inFlight.values()) {
      if ([...clusters].some((cluster) => busy.has(cluster))) return;
    }
    for (const cluster of clusters) this.written.add(cluster);
    const work =
      this.#below(4) === 0
        ? this.disk.trim(offset, length)
        : this.disk.write(offset, Buffer.alloc(length, this.#below(256)), false);
    const done = work.finally(() => this.#inFlight.delete(done));
    this.#inFlight.set(done, clusters);
  }

  /** A pause, until everything is written. */
  async quiesce(): Promise<void> {
    this.#paused = true;
    while (this.#inFlight.size > 0) await Promise.all(this.#inFlight.keys());
    this.#paused = false;
  }

  /** The edge; what it closed is to be given to `apply`. */
  edge(): { epoch: number; operations: DiskOperation[] } {
    const operations = this.#epoch;
    this.#epoch = [];
    const epoch = this.#number;
    this.#number += 1;
    return { epoch, operations };
  }

  async apply(operations: readonly DiskOperation[]): Promise<void> {
    for (const operation of operations) {
      if (operation.kind === 'write') await this.target.write(operation.offset, operation.data);
      else await this.target.writeZeroes(operation.offset, operation.length);
    }
  }

  #below(bound: number): number {
    return this.#random.nextInt(0, Math.max(1, Math.floor(bound)) - 1);
  }
}

async function check(plan: Plan): Promise<{ found: number; repeated: number }> {
  const pair = new Pair(plan);
  const wire = new ResyncPair({ disk: pair.target, changed: { trusted: true, ranges: [] } });
  const verifier = new DiskVerifier({ index: 0, disk: pair.disk, link: wire.toTarget });
  wire.onMessage = (message) => {
    if (message.kind === 'digests') verifier.onMessage(message);
  };
  wire.onFailure = (error) => verifier.fail(error);
  wire.onDelivery = () => pair.guest();
  const judged = new Set<number>();
  const differing = () =>
    verifier.result.differingRanges.flatMap(({ offset, length }) => clustersIn(offset, length));
  try {
    while (verifier.wantsPass) {
      await pair.quiesce();
      const { epoch, operations } = pair.edge();
      verifier.beginPass(epoch);
      pair.written.clear();
      const atEdge = Buffer.from(pair.source.bytes);
      const known = new Set(differing());
      const before = verifier.result;
      const run = verifier.run();
      for (let turns = plan.lag; turns > 0; turns--) {
        await turn();
        if (turns % 4 === 0) pair.guest();
      }
      await pair.apply(operations);
      const truth = new Set(differingClusters(atEdge, pair.target.bytes));
      wire.target.applied(epoch);
      // The next epoch is applied while digests are computed.
      await pair.quiesce();
      const next = pair.edge();
      const later = pair.apply(next.operations);
      await run;
      await later;
      wire.target.applied(next.epoch);
      const after = verifier.result;
      for (const cluster of differing()) {
        if (known.has(cluster)) continue;
        if (!truth.has(cluster)) throw new Error(`Cluster ${cluster} is equal, but was reported`);
        judged.add(cluster);
      }
      for (const cluster of truth) {
        if (judged.has(cluster) || pair.written.has(cluster)) continue;
        throw new Error(`Cluster ${cluster} differs, but was not found`);
      }
      const progress = before.notCompared - after.notCompared;
      if (after.notCompared > pair.written.size || progress < 0) {
        throw new Error(`${after.notCompared} were not compared, ${pair.written.size} written`);
      }
    }
    const { passes, notCompared } = verifier.result;
    if (plan.writes === 0 && (passes !== 1 || notCompared !== 0)) throw new Error('Passes wasted');
    const found = verifier.result.differing;
    // The repair: in a pause, as writes of the next epoch.
    wire.onDelivery = () => undefined;
    await pair.quiesce();
    await pair.apply(pair.edge().operations);
    const left = new Set(differingClusters(pair.source.bytes, pair.target.bytes));
    verifier.repair();
    for (let ranges = pair.disk.takeDirty(8); ranges.length > 0; ranges = pair.disk.takeDirty(8)) {
      for (const { offset, length } of ranges) {
        await pair.target.write(offset, await pair.disk.read(offset, length));
        for (const cluster of clustersIn(offset, length)) left.delete(cluster);
      }
    }
    const still = differingClusters(pair.source.bytes, pair.target.bytes);
    if (still.length !== left.size || left.size > notCompared) {
      throw new Error(`${still} differ after the repair, ${notCompared} were never compared`);
    }
    return { found, repeated: passes - 1 };
  } finally {
    await wire.end();
    await pair.quiesce();
  }
}

test('a verification finds exactly what differs while the guest writes', async (t) => {
  let found = 0;
  let repeated = 0;
  await fc.assert(
    fc.asyncProperty(plan, async (each) => {
      const result = await check(each);
      found += result.found;
      repeated += result.repeated;
    }),
    { numRuns: 80, includeErrorInReport: true },
  );
  t.true(found > 50, `only ${found} differences were there to be found`);
  t.true(repeated > 20, `only ${repeated} passes were repeated`);
});
