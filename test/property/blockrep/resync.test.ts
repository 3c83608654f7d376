/**
 * Resynchronisation of two model disks while a guest writes and the link breaks: the images end up
 * equal, nothing is sent without need, and a changed-only one touches nothing else.
 */
import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import fc from 'fast-check';
import { ChangeMap } from '../../../src/blockrep/generation/change-map.js';
import {
  DIRTY_CLUSTER_BYTES as CLUSTER,
  type DiskOperation,
  ReplicatedDisk,
  type ResyncMessage,
  ResyncSource,
} from '../../../src/blockrep/index.js';
import { Prng } from '../../../src/lib/index.js';
import { changeMapMemory } from '../../support/change-map-memory.js';
import { ResyncPair } from '../../support/resync-pair.js';
import { clustersIn, differingClusters, SparseDisk } from '../../support/sparse-disk.js';

const BOOT = '10000000-2222-4333-8444-555555555555';
const NAME = '1000000a-aaaa-4bbb-8ccc-dddddddddddd';

interface Plan {
  readonly seed: number;
  readonly clusters: number;
  /** Of the last cluster, bytes. */
  readonly tail: number;
  /** Messages after which each session breaks; the one after them does not. */
  readonly breaks: readonly number[];
  /** Whether the verdict is `changed`, and what the target says of its map. */
  readonly changedOnly: boolean;
  readonly targetTrusted: boolean;
  /** Guest writes per hundred messages. */
  readonly writes: number;
}

const plan: fc.Arbitrary<Plan> = fc.record({
  seed: fc.nat(),
  clusters: fc.integer({ min: 1, max: 40 }),
  tail: fc.constantFrom(512, 4096, CLUSTER),
  breaks: fc.array(fc.integer({ min: 0, max: 20 }), { maxLength: 3 }),
  changedOnly: fc.boolean(),
  targetTrusted: fc.boolean(),
  writes: fc.constantFrom(0, 20, 150),
});

class World {
  readonly plan: Plan;
  readonly random: Prng;
  readonly sourceImage: SparseDisk;
  readonly targetImage: SparseDisk;
  readonly sourceMap: ChangeMap;
  readonly targetMap: ChangeMap;
  readonly disk: ReplicatedDisk;
  /** Clusters that the guest wrote, one count per write and cluster. */
  guestClusters = 0;
  readonly written = new Set<number>();
  readonly #inFlight = new Set<Promise<void>>();

  constructor(plan: Plan) {
    this.plan = plan;
    this.random = new Prng(plan.seed);
    const sizeBytes = (plan.clusters - 1) * CLUSTER + plan.tail;
    this.sourceImage = new SparseDisk(sizeBytes);
    this.targetImage = new SparseDisk(sizeBytes);
    const options = { sizeBytes, bootId: BOOT };
    this.sourceMap = new ChangeMap(changeMapMemory(sizeBytes), options);
    this.targetMap = new ChangeMap(changeMapMemory(sizeBytes), options);
    for (const map of [this.sourceMap, this.targetMap]) map.begin(NAME, 1);
    // What both have in common; then each its own changes.
    for (let cluster = 0; cluster < plan.clusters; cluster++) {
      if (this.#below(3) === 0) continue;
      const data = this.#contents(cluster);
      this.sourceImage.fill(cluster * CLUSTER, data);
      this.targetImage.fill(cluster * CLUSTER, data);
    }
    this.#scatter(this.sourceImage, this.sourceMap);
    this.#scatter(this.targetImage, this.targetMap);
    for (const image of [this.sourceImage, this.targetImage]) {
      image.forget();
      image.delay = () => this.#below(4);
    }
    this.disk = new ReplicatedDisk({
      base: this.sourceImage,
      changes: this.sourceMap,
      onWrite: (operation) => this.#forward(operation),
    });
  }

  get sizeBytes(): number {
    return this.sourceImage.sizeBytes;
  }

  /** Maybe a write of the guest: somewhere, of some length, and not waited for. */
  guest(): void {
    if (this.#below(100) >= this.plan.writes) return;
    // Never two overlapping ones at once: the NBD server sees to that.
    if (this.#inFlight.size > 0 && this.#below(2) === 0) return;
    const offset = 512 * this.#below(this.sizeBytes / 512);
    const most = Math.min(this.sizeBytes - offset, 2 * CLUSTER);
    const length = Math.max(512, 512 * this.#below(most / 512));
    const clusters = clustersIn(offset, length);
    if (clusters.some((cluster) => this.#busy.has(cluster))) return;
    for (const cluster of clusters) {
      this.#busy.add(cluster);
      this.written.add(cluster);
    }
    this.guestClusters += clusters.length;
    const zero = this.#below(4) === 0;
    const data = Buffer.alloc(length, 1 + this.#below(250));
    const options = { mayTrim: true, fua: false };
    const work = zero
      ? this.disk.writeZeroes(offset, length, options)
      : this.disk.write(offset, data, false);
    const done = work.finally(() => {
      this.#inFlight.delete(done);
      for (const cluster of clusters) this.#busy.delete(cluster);
    });
    this.#inFlight.add(done);
  }

  /** The guest is paused. */
  async quiesce(): Promise<void> {
    while (this.#inFlight.size > 0) await Promise.all(this.#inFlight);
  }

  readonly #busy = new Set<number>();

  #forward(operation: DiskOperation): undefined {
    if (operation.kind === 'write') this.targetImage.fill(operation.offset, operation.data);
    else this.targetImage.bytes.fill(0, operation.offset, operation.offset + operation.length);
  }

  #scatter(image: SparseDisk, map: ChangeMap): void {
    for (let count = this.#below(this.plan.clusters); count > 0; count--) {
      const cluster = this.#below(this.plan.clusters);
      const data = this.#contents(cluster);
      map.mark(cluster * CLUSTER, data.length);
      image.fill(cluster * CLUSTER, data);
    }
  }

  /** Few different ones, so that clusters are equal by chance; zeroes with space among them. */
  #contents(cluster: number): Buffer {
    const isLast = cluster === this.plan.clusters - 1;
    return Buffer.alloc(isLast ? this.plan.tail : CLUSTER, this.#below(4));
  }

  #below(bound: number): number {
    return this.random.nextInt(0, Math.max(1, Math.floor(bound)) - 1);
  }
}

interface Outcome {
  readonly finished: boolean;
  readonly syncBytes: number;
}

/** One session, until the pause after which the target follows, or until it breaks. */
async function session(world: World, messages: number | undefined): Promise<Outcome> {
  const { plan, disk } = world;
  const trusted = plan.targetTrusted;
  const pair = new ResyncPair({
    disk: world.targetImage,
    changed: { trusted, ranges: world.targetMap.ranges() },
    ...(messages === undefined ? {} : { messages }),
  });
  disk.setMode('untracked');
  disk.setMode('tracking');
  const source = new ResyncSource({
    index: 0,
    disk,
    link: pair.toTarget,
    all: !plan.changedOnly,
    changed: world.sourceMap.ranges(),
  });
  pair.onMessage = (message: ResyncMessage) => {
    if (message.kind === 'digestRequest') throw new Error('A source was asked for digests');
    source.onMessage(message);
  };
  pair.onFailure = (error) => source.fail(error);
  pair.onDelivery = () => world.guest();
  try {
    await pair.target.announce();
    for (let passes = 0; passes < 4; passes++) if ((await source.pass()) === 0) break;
    await pair.toTarget.idle();
    // The pause: what is left travels as writes of the epoch.
    await world.quiesce();
    disk.setMode('forwarding');
    for (let ranges = disk.takeDirty(8); ranges.length > 0; ranges = disk.takeDirty(8)) {
      for (const { offset, length } of ranges) {
        world.targetImage.fill(offset, await disk.read(offset, length));
      }
    }
    return { finished: true, syncBytes: pair.syncBytes };
  } catch (error) {
    if (pair.failure === undefined || !/broke/.test(String(pair.failure))) throw error;
    return { finished: false, syncBytes: pair.syncBytes };
  } finally {
    await pair.end();
    await world.quiesce();
  }
}

async function check(plan: Plan): Promise<{ broken: number }> {
  const world = new World(plan);
  const onlyChanged = plan.changedOnly && plan.targetTrusted;
  const allowed = new Set(
    [...world.sourceMap.ranges(), ...world.targetMap.ranges()].flatMap(({ offset, length }) =>
      clustersIn(offset, length),
    ),
  );
  let broken = 0;
  for (const messages of [...plan.breaks, undefined]) {
    const differing = differingClusters(world.sourceImage.bytes, world.targetImage.bytes).length;
    const before = world.guestClusters;
    const { finished, syncBytes } = await session(world, messages);
    const written = world.guestClusters - before;
    // A write may be seen before it is complete, and be sent then and again when it is.
    const most = (differing + 2 * written) * CLUSTER;
    if (syncBytes > most) {
      throw new Error(
        `${syncBytes} bytes were sent where ${differing} + 2 * ${written} clusters do`,
      );
    }
    if (finished) break;
    broken += 1;
  }
  const left = differingClusters(world.sourceImage.bytes, world.targetImage.bytes);
  if (left.length > 0) throw new Error(`Clusters ${left} differ after ${broken} broken links`);
  if (!onlyChanged) return { broken };
  for (const touched of [
    world.targetImage.touched,
    world.targetImage.reads,
    world.sourceImage.reads,
  ]) {
    for (const cluster of touched) {
      if (allowed.has(cluster) || world.written.has(cluster)) continue;
      throw new Error(`Cluster ${cluster} was touched, which nobody had changed`);
    }
  }
  return { broken };
}

test('two images become equal, for no more data than differs or is written', async (t) => {
  let broken = 0;
  await fc.assert(
    fc.asyncProperty(plan, async (each) => {
      broken += (await check(each)).broken;
    }),
    { numRuns: 120, includeErrorInReport: true },
  );
  t.true(broken > 20, `only ${broken} links broke`);
  await turn();
});
