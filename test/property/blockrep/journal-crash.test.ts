/**
 * Seeded rounds of lives that each end in a kill or a power cut at a random operation of the
 * storage, also in the middle of a recovery. After every crash the images of all disks must be
 * exactly what they were at the end of the last committed epoch, or of its stored successor; after
 * a promotion everything that was flushed must be there.
 *
 * `COLO_JOURNAL_SEED` and `COLO_JOURNAL_ROUNDS` choose other rounds.
 */
import test from 'ava';
import { type DiskOperation, SecondaryDisks } from '../../../src/blockrep/index.js';
import { Prng } from '../../../src/lib/index.js';
import { ModelStorage } from '../../support/model-storage.js';
import { collectingLog } from '../../unit/blockrep/support.js';

const ROUNDS = Number(process.env['COLO_JOURNAL_ROUNDS'] ?? 300);
const SEED = Number(process.env['COLO_JOURNAL_SEED'] ?? 1);

/** Content of all images. */
type State = readonly Buffer[];

/** What may be found after a crash now. */
type Allowed =
  | { kind: 'exactly'; states: State[] }
  /** A synchronisation was not complete: nothing is promised. */
  | { kind: 'anything' }
  /** Byte by byte one of these: what was flushed, and what was written since. */
  | { kind: 'mixture'; states: State[] };

class Round {
  readonly prng: Prng;
  readonly storage: ModelStorage;
  readonly sizes: number[];
  readonly bounds;
  allowed: Allowed;
  epoch = 0;
  /** What each epoch that may have been stored was. */
  readonly history = new Map<number, State>();
  counts = { epochs: 0, promotions: 0, drops: 0, successors: 0, replayed: 0, crashes: 0 };

  constructor(seed: number) {
    this.prng = new Prng(seed);
    this.storage = new ModelStorage(this.prng);
    this.sizes = Array.from({ length: this.prng.nextInt(1, 3) }, () => {
      return this.prng.nextInt(20, 120) * 512;
    });
    this.bounds = {
      bufferMemoryBytes: this.prng.pick([0, 9000, 1 << 20]),
      overlayMemoryBytes: 1 << 20,
      journalSegmentBytes: this.prng.pick([8192, 32768, 131072]),
    };
    const states = this.sizes.map((size, index) => {
      const disk = this.storage.disk(`image-${index}`, size);
      disk.write(0, this.bytes(size));
      disk.settle();
      return Buffer.from(disk.cache);
    });
    this.allowed = { kind: 'exactly', states: [states] };
  }

  async run(): Promise<void> {
    for (let life = this.prng.nextInt(2, 4); life > 0; life--) {
      this.storage.crashAfter(this.prng.nextInt(1, this.prng.pick([15, 60, 300, 900])));
      const live = this.prng.chance(0.15);
      let failure: unknown;
      const work = this.life(live).catch((error) => {
        failure = error;
      });
      await Promise.race([work, this.storage.crashed]);
      if (failure !== undefined) throw failure;
      this.counts.crashes += 1;
      this.storage.restart(this.prng.pick(['kill', 'power']));
    }
    await this.open(false);
    // Nothing of a recovery may hang on a sync that is still to come.
    this.storage.restart('power');
    this.check('after the last recovery', this.images());
  }

  async open(live: boolean): Promise<SecondaryDisks> {
    const log = collectingLog();
    const disks = await SecondaryDisks.open({
      vm: 'guest',
      images: this.sizes.map((_size, index) => this.storage.image(`image-${index}`)),
      directory: '/nowhere',
      storage: this.storage,
      bounds: this.bounds,
      log,
      live,
    });
    if (log.lines.some((line) => line.includes('Replayed'))) this.counts.replayed += 1;
    const durable = this.sizes.map((_size, index) => {
      return Buffer.from(this.storage.disk(`image-${index}`).durable);
    });
    this.check(`after a recovery${live ? ', live' : ''}`, durable);
    const told = disks.recoveredEpoch;
    const state = told === undefined ? undefined : this.history.get(told);
    if (told !== undefined && (state === undefined || !same(state, durable))) {
      throw new Error(`The images are not at epoch ${told}, which the journal told`);
    }
    if (this.allowed.kind === 'exactly' && this.allowed.states.length > 1) {
      const [first] = this.allowed.states;
      if (first === undefined || !same(first, durable)) this.counts.successors += 1;
    }
    this.allowed = { kind: 'exactly', states: [durable] };
    return disks;
  }

  async life(live: boolean): Promise<void> {
    const disks = await this.open(live);
    if (live) return this.serve(disks, this.images());
    if (this.prng.chance(0.25)) await this.synchronise(disks);
    let applying: Promise<void> = Promise.resolve();
    for (let epochs = this.prng.nextInt(0, 12); epochs > 0; epochs--) {
      const committed = await this.runEpoch(disks, () => applying);
      if (committed === undefined) continue;
      applying = disks.apply(committed);
      if (this.prng.chance(0.3)) await applying;
      if (this.prng.chance(0.05)) {
        await applying;
        await this.synchronise(disks);
      }
    }
    if (this.prng.chance(0.5)) return this.promote(disks, applying);
    await applying;
    if (this.prng.chance(0.5)) await disks.close();
  }

  /** One epoch up to its commit; undefined when it was dropped. */
  async runEpoch(disks: SecondaryDisks, applied: () => Promise<void>): Promise<number | undefined> {
    const epoch = ++this.epoch;
    const base = this.current();
    const next = base?.map((image) => Buffer.from(image)) ?? this.images();
    const totals = this.sizes.map(() => ({ operations: 0, bytes: 0 }));
    const count = this.prng.pick([0, 1, 4, 30]);
    for (let i = 0; i < count; i++) {
      const disk = this.prng.nextInt(0, this.sizes.length - 1);
      const operation = this.operation(disk);
      const room = disks.stage(disk, epoch, operation);
      put(next[disk] as Buffer, operation);
      const total = totals[disk] as { operations: number; bytes: number };
      total.operations += 1;
      total.bytes += lengthOf(operation);
      if (this.prng.chance(0.5)) await room;
    }
    await applied();
    if (this.prng.chance(0.1)) return this.drop(disks);
    for (const [disk, total] of totals.entries()) {
      // From here on it may be stored as a whole.
      if (disk === totals.length - 1) this.mayBecome(next, epoch);
      const result = await disks.closeEpoch(disk, epoch, total);
      if (!result.ok) throw new Error(`Epoch ${epoch}: ${result.reason}`);
    }
    if (this.prng.chance(0.15)) {
      // The guest has gone on meanwhile.
      if (this.prng.chance(0.5)) void disks.stage(0, ++this.epoch, this.operation(0));
      return this.drop(disks);
    }
    disks.commit(epoch);
    this.counts.epochs += 1;
    this.allowed = { kind: 'exactly', states: [next] };
    return epoch;
  }

  async drop(disks: SecondaryDisks): Promise<undefined> {
    await disks.dropUncommitted();
    this.counts.drops += 1;
    const state = this.current();
    if (state !== undefined) this.allowed = { kind: 'exactly', states: [state] };
    return undefined;
  }

  async synchronise(disks: SecondaryDisks): Promise<void> {
    const state = this.images();
    for (let disk = 0; disk < this.sizes.length; disk++) {
      for (let i = this.prng.nextInt(1, 5); i > 0; i--) {
        const operation = this.operation(disk);
        this.allowed = { kind: 'anything' };
        put(state[disk] as Buffer, operation);
        const { offset } = operation;
        if (operation.kind === 'write') await disks.syncWrite(disk, offset, operation.data);
        else await disks.syncZero(disk, offset, operation.length);
      }
    }
    const epoch = ++this.epoch;
    this.history.set(epoch, state);
    for (let disk = 0; disk < this.sizes.length; disk++) {
      await disks.closeEpoch(disk, epoch, { operations: 0, bytes: 0 });
    }
    disks.commit(epoch);
    this.allowed = { kind: 'exactly', states: [state] };
    await disks.apply(epoch);
  }

  async promote(disks: SecondaryDisks, applying: Promise<void>): Promise<void> {
    // With or without an epoch that has begun: it is dropped.
    if (this.prng.chance(0.5)) void disks.stage(0, ++this.epoch, this.operation(0));
    if (this.prng.chance(0.5)) await applying;
    await disks.promote();
    this.counts.promotions += 1;
    const state = this.current();
    if (state === undefined) throw new Error('Promoted from nothing');
    await this.serve(disks, state);
  }

  /** The guest runs: writes and flushes. */
  async serve(disks: SecondaryDisks, start: State): Promise<void> {
    let now: State = start;
    let states: State[] = [start];
    for (let i = this.prng.nextInt(1, 40); i > 0; i--) {
      if (this.prng.chance(0.2)) {
        await Promise.all(disks.disks.map((disk) => disk.flush()));
        states = [now];
        this.allowed = { kind: 'mixture', states };
        continue;
      }
      const index = this.prng.nextInt(0, this.sizes.length - 1);
      const operation = this.operation(index);
      now = now.map((image) => Buffer.from(image));
      put(now[index] as Buffer, operation);
      states = [...states, now];
      this.allowed = { kind: 'mixture', states };
      const disk = disks.disks[index];
      const { offset } = operation;
      if (operation.kind === 'write') await disk?.write(offset, operation.data, false);
      else await disk?.trim(offset, operation.length);
    }
  }

  /** The committed state; undefined while a synchronisation is under way. */
  current(): State | undefined {
    return this.allowed.kind === 'exactly' ? this.allowed.states[0] : undefined;
  }

  mayBecome(next: State, epoch: number): void {
    this.history.set(epoch, next);
    if (this.allowed.kind === 'exactly') {
      this.allowed = { kind: 'exactly', states: [...this.allowed.states, next] };
    }
  }

  images(): Buffer[] {
    return this.sizes.map((_size, i) => Buffer.from(this.storage.disk(`image-${i}`).cache));
  }

  check(when: string, found: State): void {
    const { allowed } = this;
    if (allowed.kind === 'anything') return;
    if (allowed.kind === 'exactly') {
      if (allowed.states.some((state) => same(state, found))) return;
      throw new Error(`${when}: the images are no epoch's (${allowed.states.length} allowed)`);
    }
    for (const [index, image] of found.entries()) {
      const versions = allowed.states.map((state) => state[index] as Buffer);
      for (let at = 0; at < image.length; at++) {
        if (versions.some((version) => version[at] === image[at])) continue;
        throw new Error(`${when}: byte ${at} of disk ${index} was never written so`);
      }
    }
  }

  operation(disk: number): DiskOperation {
    const size = this.sizes[disk] as number;
    const offset = this.prng.nextInt(0, size - 1);
    const most = this.prng.pick([600, 5000, 40_000]);
    const length = Math.min(this.prng.nextInt(1, most), size - offset);
    const kind = this.prng.pick(['write', 'write', 'write', 'zero', 'trim'] as const);
    if (kind !== 'write') return { kind, offset, length };
    return { kind, offset, data: this.bytes(length) };
  }

  bytes(length: number): Buffer {
    const data = Buffer.alloc(length);
    for (let at = 0; at < length; at += 4) {
      data.writeUIntLE(this.prng.nextUint32() & 0xff, at, 1);
      data.fill(data[at] as number, at, Math.min(at + 4, length));
    }
    return data;
  }
}

function put(image: Buffer, operation: DiskOperation): void {
  if (operation.kind === 'write') operation.data.copy(image, operation.offset);
  else image.fill(0, operation.offset, operation.offset + operation.length);
}

function lengthOf(operation: DiskOperation): number {
  return operation.kind === 'write' ? operation.data.length : operation.length;
}

function same(a: State, b: State): boolean {
  return a.every((image, index) => image.equals(b[index] as Buffer));
}

test('after any crash all images are at the end of one epoch, the last or its successor', async (t) => {
  const sum: Round['counts'] = {
    epochs: 0,
    promotions: 0,
    drops: 0,
    successors: 0,
    replayed: 0,
    crashes: 0,
  };
  for (let seed = SEED; seed < SEED + ROUNDS; seed++) {
    const round = new Round(seed);
    try {
      await round.run();
    } catch (error) {
      t.fail(`COLO_JOURNAL_SEED=${seed} COLO_JOURNAL_ROUNDS=1: ${String(error)}`);
      return;
    }
    for (const [name, value] of Object.entries(round.counts)) {
      sum[name as keyof typeof sum] += value;
    }
  }
  t.log(JSON.stringify(sum));
  if (ROUNDS < 200) return;
  // A round that never gets anywhere would pass.
  t.true(sum.epochs > 2 * ROUNDS && sum.replayed > ROUNDS / 2, JSON.stringify(sum));
  t.true(sum.promotions > 20 && sum.drops > 20 && sum.successors > 5, JSON.stringify(sum));
});
