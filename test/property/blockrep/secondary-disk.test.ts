/**
 * The secondary disk against a model of plain arrays: SVM reads and writes of any alignment, alone
 * and at once, staged epochs, commits, applies, drops and promotion in random order, with memory
 * bounds that spill nothing, some or all.
 */
import fs from 'node:fs';
import path from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import {
  type DiskOperation,
  ImageFile,
  type SecondaryDisk,
  SecondaryDisks,
} from '../../../src/blockrep/index.js';
import { collectingLog, temporaryDirectory } from '../../unit/blockrep/support.js';

/** 20 blocks and a short one. */
const SIZE = 20 * 4096 + 1536;
/** Writes at once never overlap: each has its own cell, several cells share a block. */
const CELL = 512;

const range = fc
  .tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 3 * 4096 }))
  .map(([offset, length]) => ({ offset, length: Math.min(length, SIZE - offset) }));
const value = fc.integer({ min: 1, max: 255 });

interface ChangeStep<Kind> {
  kind: Kind;
  change: 'write' | 'zero' | 'trim';
  at: Range;
  value: number;
}
type SvmStep =
  | ChangeStep<'svm'>
  | { kind: 'burst'; cells: number[]; value: number }
  | { kind: 'read'; at: Range }
  | { kind: 'promote' | 'flush' };
type EpochStep = ChangeStep<'stage'> | { kind: 'close' | 'commit' | 'apply' | 'drop' };
type Step = SvmStep | EpochStep;

interface Range {
  offset: number;
  length: number;
}

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: change('svm') },
  { weight: 6, arbitrary: change('stage') },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('burst' as const),
      cells: fc.uniqueArray(fc.nat(SIZE / CELL - 1), { minLength: 2, maxLength: 12 }),
      value,
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('read' as const), at: range }) },
  ...(['close', 'commit', 'apply'] as const).map((kind) => ({
    weight: 3,
    arbitrary: fc.constant({ kind }),
  })),
  ...(['drop', 'promote', 'flush'] as const).map((kind) => ({
    weight: 1,
    arbitrary: fc.constant({ kind }),
  })),
);

function change<Kind extends 'svm' | 'stage'>(kind: Kind): fc.Arbitrary<ChangeStep<Kind>> {
  return fc.record({
    kind: fc.constant(kind),
    change: fc.constantFrom('write' as const, 'zero' as const, 'trim' as const),
    at: range,
    value,
  });
}

interface Epoch {
  epoch: number;
  state: 'open' | 'closed' | 'committed';
  operations: DiskOperation[];
}

class Model {
  readonly image: Buffer;
  svm: Buffer;
  epochs: Epoch[] = [];
  nextEpoch = 0;
  promoted = false;

  constructor(image: Buffer) {
    this.image = Buffer.from(image);
    this.svm = Buffer.from(image);
  }

  open(): Epoch {
    const last = this.epochs.at(-1);
    if (last?.state === 'open') return last;
    const epoch: Epoch = { epoch: this.nextEpoch++, state: 'open', operations: [] };
    this.epochs.push(epoch);
    return epoch;
  }

  apply(): void {
    for (const operation of this.epochs.shift()?.operations ?? []) put(this.image, operation);
    this.svm = Buffer.from(this.image);
  }

  drop(): void {
    this.epochs = this.epochs.filter((each) => each.state === 'committed');
  }

  promote(): void {
    while (this.epochs[0]?.state === 'committed') this.apply();
    this.epochs = [];
    this.promoted = true;
  }
}

function put(bytes: Buffer, operation: DiskOperation): void {
  if (operation.kind === 'write') operation.data.copy(bytes, operation.offset);
  else bytes.fill(0, operation.offset, operation.offset + operation.length);
}

function toOperation(step: ChangeStep<'svm' | 'stage'>): DiskOperation {
  const { offset, length } = step.at;
  if (step.change !== 'write') return { kind: step.change, offset, length };
  const data = Buffer.alloc(length);
  for (let i = 0; i < length; i++) data[i] = (step.value + i) & 0xff;
  return { kind: 'write', offset, data };
}

interface Subject {
  readonly all: SecondaryDisks;
  readonly disk: SecondaryDisk;
}

async function runStep(subject: Subject, model: Model, step: Step): Promise<void> {
  const { all, disk } = subject;
  switch (step.kind) {
    case 'svm': {
      const operation = toOperation(step);
      put(model.svm, operation);
      const { offset } = operation;
      if (operation.kind === 'write') await disk.write(offset, operation.data, step.value < 9);
      else if (operation.kind === 'trim') await disk.trim(offset, operation.length);
      else await disk.writeZeroes(offset, operation.length, { mayTrim: false, fua: false });
      return;
    }
    case 'burst': {
      const operations = step.cells.map((cell, i) => {
        const data = Buffer.alloc(CELL, step.value + i);
        return { kind: 'write' as const, offset: cell * CELL, data };
      });
      for (const operation of operations) put(model.svm, operation);
      await Promise.all(operations.map(({ offset, data }) => disk.write(offset, data, false)));
      return;
    }
    case 'read': {
      const { offset, length } = step.at;
      const found = await disk.read(offset, length);
      assertSame(found, model.svm.subarray(offset, offset + length), 'read');
      return;
    }
    case 'flush':
      return disk.flush();
    case 'promote':
      await all.promote();
      if (!model.promoted) model.promote();
      return;
    default:
      if (!model.promoted) await runEpochStep(all, model, step);
  }
}

async function runEpochStep(all: SecondaryDisks, model: Model, step: EpochStep): Promise<void> {
  switch (step.kind) {
    case 'stage': {
      const operation = toOperation(step);
      const epoch = model.open();
      epoch.operations.push(operation);
      const borrowed =
        operation.kind === 'write'
          ? { ...operation, data: Buffer.from(operation.data) }
          : operation;
      const room = all.stage(0, epoch.epoch, borrowed);
      if (borrowed.kind === 'write') borrowed.data.fill(0xee);
      if (step.value % 2 === 0) await room;
      return;
    }
    case 'close': {
      const epoch = model.open();
      epoch.state = 'closed';
      let bytes = 0;
      for (const each of epoch.operations) {
        bytes += each.kind === 'write' ? each.data.length : each.length;
      }
      const totals = { operations: epoch.operations.length, bytes };
      const result = await all.closeEpoch(0, epoch.epoch, totals);
      if (!result.ok) throw new Error(result.reason);
      return;
    }
    case 'commit': {
      const epoch = model.epochs.find((each) => each.state !== 'committed');
      if (epoch?.state !== 'closed') return;
      all.commit(epoch.epoch);
      epoch.state = 'committed';
      return;
    }
    case 'apply': {
      const epoch = model.epochs[0];
      if (epoch?.state !== 'committed') return;
      await all.apply(epoch.epoch);
      model.apply();
      return;
    }
    case 'drop':
      await all.dropUncommitted();
      model.drop();
  }
}

function assertSame(found: Buffer, expected: Buffer, what: string): void {
  if (found.equals(expected)) return;
  const at = found.findIndex((byte, i) => byte !== expected[i]);
  throw new Error(`${what}: byte ${at} is ${found[at]}, expected ${expected[at]}`);
}

const bounds = fc.constantFrom(
  {},
  { overlayMemoryBytes: 0 },
  { bufferMemoryBytes: 0 },
  { bufferMemoryBytes: 9000, overlayMemoryBytes: 0 },
);

test('the secondary disk is what a model of plain arrays says', async (t) => {
  const directory = temporaryDirectory(t);
  let number = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), bounds, async (steps, limits) => {
      const file = path.join(directory, `${number++}.img`);
      const start = Buffer.alloc(SIZE);
      for (let i = 0; i < SIZE; i++) start[i] = (i * 7) & 0xff;
      fs.writeFileSync(file, start);
      const image = await ImageFile.open({ path: file });
      const log = collectingLog();
      const bounds = { journalSegmentBytes: 65536, ...limits };
      const all = await SecondaryDisks.open({ vm: 'g', images: [image], directory, log, bounds });
      const disk = all.disks[0] as SecondaryDisk;
      const model = new Model(start);
      try {
        for (const each of steps) {
          await runStep({ all, disk }, model, each);
          assertSame(await disk.read(0, SIZE), model.svm, `SVM after ${each.kind}`);
          if (!model.promoted) assertSame(fs.readFileSync(file), model.image, 'image');
        }
        await all.promote();
        if (!model.promoted) model.promote();
        await all.whenMerged();
        assertSame(fs.readFileSync(file), model.svm, 'image after the merge');
        if (disk.stats.mode !== 'direct') throw new Error('Not merged');
      } finally {
        await all.close();
        fs.unlinkSync(file);
      }
    }),
    { numRuns: 300 },
  );
  t.deepEqual(
    fs.readdirSync(directory),
    [],
    'spill files have no name, the journal is gone after a promotion',
  );
});
