/**
 * Two hosts live through boots, failovers, kills, losses of power, broken links and split brains.
 * Whatever is judged: nothing that a client may have seen is overwritten, and a resynchronisation
 * of only what changed makes the images equal. The records and maps are real files.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { discardImage } from '../../../src/blockrep/generation/discard-shell.js';
import { DiskGeneration } from '../../../src/blockrep/generation/disk-generation-shell.js';
import { judgeDisk } from '../../../src/blockrep/generation/judge.js';
import {
  type ByteRange,
  DIRTY_CLUSTER_BYTES as CLUSTER,
  lineageOf,
} from '../../../src/blockrep/index.js';
import { OperatorError } from '../../../src/lib/index.js';
import { clustersIn } from '../../support/sparse-disk.js';

const CLUSTERS = 40;
const LOG = { debug() {}, info() {}, warn() {}, error() {} };
/** Where a sync costs nothing: what is lost with the power is the maps' affair, not the files'. */
const PLACE = fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir();

const EVENTS = [
  ...['boot', 'write', 'write', 'write', 'write', 'attach', 'attach', 'attach', 'attach'],
  ...['checkpoint', 'checkpoint', 'unheard', 'failover', 'failover', 'partnerLost', 'partnerLost'],
  ...['splitBrain', 'kill', 'power', 'close', 'breakSync'],
] as const;
type EventKind = (typeof EVENTS)[number];

interface Event {
  readonly kind: EventKind;
  readonly host: 0 | 1;
  readonly cluster: number;
}

const event: fc.Arbitrary<Event> = fc.record({
  kind: fc.constantFrom(...(EVENTS as readonly EventKind[])),
  host: fc.constantFrom(0 as const, 1 as const),
  cluster: fc.nat(CLUSTERS - 1),
});

class Host {
  readonly name: string;
  readonly imagePath: string;
  /** The number of the write that each cluster has; 0: never written. */
  image = new Uint32Array(CLUSTERS);
  /** Every write that the image has seen, overwritten or not. */
  writes = new Set<number>();
  bootNumber = 1;
  generation: DiskGeneration | undefined;
  role: 'down' | 'primary' | 'standby' = 'down';
  /** The operator gave its data up. */
  given = false;

  constructor(directory: string, name: string) {
    this.name = name;
    this.imagePath = path.join(directory, `${name}.img`);
    fs.writeFileSync(this.imagePath, '');
    fs.truncateSync(this.imagePath, CLUSTERS * CLUSTER);
  }

  async open(stateDir: string): Promise<DiskGeneration> {
    const digit = this.name === 'anna' ? 'a' : 'b';
    this.generation = await DiskGeneration.open({
      stateDir,
      vm: 'web',
      disk: this.name,
      host: this.name,
      image: {
        path: this.imagePath,
        sizeBytes: CLUSTERS * CLUSTER,
        dataRanges: () => (this.writes.size > 0 ? [{ offset: 0, length: 1 }] : []),
      },
      log: LOG,
      bootId: `${digit}${String(this.bootNumber).padStart(7, '0')}-2222-4333-8444-555555555555`,
    });
    return this.generation;
  }

  put(cluster: number, write: number): void {
    this.image[cluster] = write;
    this.writes.add(write);
  }
}

/** What both hosts and their clients have seen. */
class World {
  readonly hosts: readonly [Host, Host];
  readonly #directory: string;
  /** Writes that a client may know of. */
  readonly #visible = new Set<number>();
  /** The host that is protected by the other one, and its writes since the last checkpoint. */
  #protected: Host | undefined;
  #opened: DiskGeneration[] = [];
  #write = 0;
  #epoch = 1_000_000;
  readonly counts = { changed: 0, all: 0, refuse: 0 };

  constructor(directory: string) {
    this.#directory = directory;
    this.hosts = [new Host(directory, 'anna'), new Host(directory, 'bert')];
  }

  async end(): Promise<void> {
    for (const generation of this.#opened) await generation.close();
  }

  async do({ kind, host: index, cluster }: Event): Promise<void> {
    const host = this.hosts[index];
    const peer = this.hosts[1 - index] as Host;
    switch (kind) {
      case 'boot':
        if (host.role === 'down') await this.#boot(host);
        return;
      case 'write':
        if (host.role === 'primary') this.#guestWrites(host, cluster);
        return;
      case 'attach':
      case 'breakSync':
        if (host.role !== 'primary' || peer.role !== 'down') return;
        return this.#attach(host, peer, kind === 'breakSync' ? cluster : undefined);
      case 'checkpoint':
      case 'unheard':
        if (this.#protected === host) await this.#checkpoint(host, peer, kind === 'checkpoint');
        return;
      case 'partnerLost':
        if (this.#protected !== host) return;
        await this.#stop(peer, cluster % 3);
        await this.#goOn(host);
        return;
      case 'failover':
      case 'splitBrain':
        if (this.#protected !== host) return;
        if (kind === 'failover') await this.#stop(host, cluster % 2);
        await this.#goOn(peer);
        // Nobody told the other one: it goes on, too.
        if (kind === 'splitBrain') await this.#goOn(host);
        return;
      case 'kill':
      case 'power':
      case 'close':
        if (host.role !== 'primary' || this.#protected === host) return;
        return this.#stop(host, ['kill', 'power', 'close'].indexOf(kind));
    }
  }

  async #open(host: Host): Promise<DiskGeneration> {
    const generation = await host.open(this.#directory);
    this.#opened.push(generation);
    return generation;
  }

  async #boot(host: Host): Promise<void> {
    const generation = await this.#open(host);
    try {
      await generation.beginAlone();
      host.role = 'primary';
      for (const write of host.writes) this.#visible.add(write);
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error;
      await this.#stop(host, 2);
    }
  }

  /** Alone from now on: what it has is seen. */
  async #goOn(host: Host): Promise<void> {
    this.#protected = undefined;
    await host.generation?.beginAlone();
    host.role = 'primary';
    for (const write of host.writes) this.#visible.add(write);
  }

  #guestWrites(host: Host, cluster: number): void {
    this.#write += 1;
    host.generation?.changes.mark(cluster * CLUSTER, 1);
    host.put(cluster, this.#write);
    if (this.#protected !== host) this.#visible.add(this.#write);
  }

  async #attach(primary: Host, secondary: Host, breakAfter: number | undefined): Promise<void> {
    const [source, target] = [primary.generation as DiskGeneration, await this.#open(secondary)];
    const verdict = judgeDisk(source.primary, JSON.parse(JSON.stringify(target.claim)));
    this.counts[verdict.kind] += 1;
    if (verdict.kind === 'refuse') {
      await this.#stop(secondary, 2);
      await this.#discard(secondary);
      return;
    }
    for (const write of secondary.writes) {
      if (!this.#visible.has(write) || primary.writes.has(write) || secondary.given) continue;
      throw new Error(`Write ${write} of ${secondary.name}, which a client saw, would be lost`);
    }
    const own = target.ownChanges();
    const lineage = lineageOf(source.primary.record);
    await target.beginSync(lineage);
    const ranges: ByteRange[] = [{ offset: 0, length: CLUSTERS * CLUSTER }];
    if (verdict.kind === 'changed' && own.trusted) {
      ranges.splice(0, 1, ...source.changedRanges(), ...own.ranges);
    }
    let copied = 0;
    for (const cluster of ranges.flatMap(({ offset, length }) => clustersIn(offset, length))) {
      if (copied === breakAfter) return this.#stop(secondary, cluster % 3);
      secondary.image[cluster] = primary.image[cluster] as number;
      copied += 1;
    }
    if (secondary.image.some((write, cluster) => write !== primary.image[cluster])) {
      throw new Error(`The images differ after a resynchronisation of ${verdict.kind}`);
    }
    this.#epoch += 1;
    source.edge(this.#epoch);
    secondary.writes = new Set(primary.writes);
    secondary.given = false;
    await target.standbyAt(lineage, this.#epoch);
    source.committed(this.#epoch);
    secondary.role = 'standby';
    this.#protected = primary;
  }

  /** The operator does what the refusal says. */
  async #discard(host: Host): Promise<void> {
    const { name, imagePath } = host;
    host.given = true;
    const stateDir = this.#directory;
    await discardImage({ stateDir, vm: 'web', disk: name, host: name, imagePath });
  }

  async #checkpoint(primary: Host, secondary: Host, heard: boolean): Promise<void> {
    this.#epoch += 1;
    primary.generation?.edge(this.#epoch);
    secondary.image = primary.image.slice();
    secondary.writes = new Set(primary.writes);
    secondary.generation?.applied(this.#epoch);
    if (heard) {
      primary.generation?.committed(this.#epoch);
      for (const write of primary.writes) this.#visible.add(write);
      return;
    }
    // The link broke: whichever is lost, the other one goes on.
    if (this.#epoch % 2 === 0) {
      await this.#stop(secondary, this.#epoch % 3);
      await this.#goOn(primary);
    } else {
      await this.#stop(primary, this.#epoch % 2);
      await this.#goOn(secondary);
    }
  }

  /** 0: killed; 1: the host loses its power; 2: closed in order. */
  async #stop(host: Host, how: number): Promise<void> {
    if (how === 2) await host.generation?.close();
    if (how === 1) host.bootNumber += 1;
    host.generation = undefined;
    host.role = 'down';
  }
}

test('no life of two hosts loses what a client saw, or leaves images that differ', async (t) => {
  const total = { changed: 0, all: 0, refuse: 0 };
  await fc.assert(
    fc.asyncProperty(fc.array(event, { minLength: 20, maxLength: 70 }), async (events) => {
      const directory = fs.mkdtempSync(path.join(PLACE, 'colo-generations-'));
      const world = new World(directory);
      try {
        await world.do({ kind: 'boot', host: 0, cluster: 0 });
        for (const each of events) await world.do(each);
      } finally {
        await world.end();
        fs.rmSync(directory, { recursive: true });
      }
      for (const kind of ['changed', 'all', 'refuse'] as const) total[kind] += world.counts[kind];
    }),
    { numRuns: 150, includeErrorInReport: true },
  );
  for (const kind of ['changed', 'all', 'refuse'] as const) {
    t.true(total[kind] > 10, `only ${total[kind]} were judged ${kind}`);
  }
});
