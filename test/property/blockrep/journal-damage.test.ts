/**
 * Damaged, cut, foreign and random journals: what is replayed is an epoch that was stored, the last
 * one or the one before it, or the opening is refused with what to do, and no image is touched.
 */
import test, { type ExecutionContext } from 'ava';
import { SecondaryDisks } from '../../../src/blockrep/index.js';
import { decodeHeader } from '../../../src/blockrep/journal-format.js';
import { scanSegment } from '../../../src/blockrep/journal-scan.js';
import { DISK_DATA_BYTES_MAX } from '../../../src/blockrep/limits.js';
import { OperatorError, Prng } from '../../../src/lib/index.js';
import { ModelStorage } from '../../support/model-storage.js';
import { collectingLog } from '../../unit/blockrep/support.js';

const SIZES = [64 * 512, 40 * 512];
const SEGMENT = 32_768;
const EPOCHS = 9;
const JOURNALS = ['guest.journal-0', 'guest.journal-1'];

function opening(storage: ModelStorage) {
  return {
    vm: 'guest',
    images: SIZES.map((_size, index) => storage.image(`image-${index}`)),
    directory: '/nowhere',
    storage,
    bounds: { journalSegmentBytes: SEGMENT },
    log: collectingLog(),
  };
}

function images(storage: ModelStorage): Buffer {
  return Buffer.concat(SIZES.map((_size, index) => storage.disk(`image-${index}`).cache));
}

/** Journals with nine stored epochs in both files, none of the last ones applied. */
async function filled() {
  const storage = new ModelStorage(new Prng(7));
  for (const [index, size] of SIZES.entries()) storage.disk(`image-${index}`, size);
  const disks = await SecondaryDisks.open(opening(storage));
  const states = [images(storage)];
  const prng = new Prng(3);
  for (let epoch = 1; epoch <= EPOCHS; epoch++) {
    const state = Buffer.from(states.at(-1) as Buffer);
    for (const [disk, size] of SIZES.entries()) {
      const data = Buffer.alloc(2000 + epoch * 11, epoch * 16 + disk + 1);
      const offset = prng.nextInt(0, size - data.length);
      await disks.stage(disk, epoch, { kind: 'write', offset, data });
      await disks.stage(disk, epoch, { kind: 'zero', offset: epoch * 512, length: 512 });
      const start = disk === 0 ? 0 : (SIZES[0] as number);
      data.copy(state, start + offset);
      state.fill(0, start + epoch * 512, start + epoch * 512 + 512);
      await disks.closeEpoch(disk, epoch, { operations: 2, bytes: data.length + 512 });
    }
    disks.commit(epoch);
    states.push(state);
  }
  const bytes = JOURNALS.map((name) => Buffer.from(storage.disk(name).cache));
  return { bytes, states };
}

/** Opens with these files over images of zeroes; undefined when it was refused. */
async function reopen(t: ExecutionContext, files: readonly (Buffer | undefined)[], vm = 'guest') {
  const storage = new ModelStorage(new Prng(1));
  for (const [index, size] of SIZES.entries()) storage.disk(`image-${index}`, size);
  for (const [index, bytes] of files.entries()) {
    if (bytes === undefined) continue;
    const disk = storage.disk(JOURNALS[index] as string, bytes.length);
    disk.write(0, bytes);
    disk.settle();
  }
  const before = images(storage);
  try {
    const disks = await SecondaryDisks.open({ ...opening(storage), vm });
    return { epoch: disks.recoveredEpoch, found: images(storage) };
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    t.regex(error.message, /guest\.journal-\d.*remove both journal files/);
    t.true(images(storage).equals(before), 'An image was touched');
    return undefined;
  }
}

test('a change of any one byte is refused, or costs no more than the last epoch', async (t) => {
  const { bytes, states } = await filled();
  const prng = new Prng(11);
  const outcomes = { refused: 0, last: 0, before: 0 };
  for (let i = 0; i < 700; i++) {
    const copies = bytes.map((each) => Buffer.from(each));
    const copy = copies[i % 2] as Buffer;
    // Every third one in a header.
    const at = prng.nextInt(0, i % 3 === 0 ? 700 : copy.length - 1);
    copy[at] = (copy[at] as number) ^ prng.nextInt(1, 255);
    const opened = await reopen(t, copies);
    if (opened === undefined) {
      outcomes.refused += 1;
      continue;
    }
    const { epoch = -1, found } = opened;
    if (epoch !== EPOCHS && epoch !== EPOCHS - 1) t.fail(`byte ${at}: epoch ${epoch}`);
    if (!found.equals(states[epoch] as Buffer)) t.fail(`byte ${at}: not epoch ${epoch}`);
    outcomes[epoch === EPOCHS ? 'last' : 'before'] += 1;
  }
  t.true(
    Object.values(outcomes).every((count) => count > 10),
    JSON.stringify(outcomes),
  );
});

test('a file that is cut, missing or empty beside one that counts is refused or torn', async (t) => {
  const { bytes, states } = await filled();
  const [first, second] = bytes as [Buffer, Buffer];
  for (let length = 0; length < second.length; length += 1777) {
    for (const files of [
      [first.subarray(0, length), second],
      [first, second.subarray(0, length)],
    ]) {
      const opened = await reopen(t, files);
      if (opened === undefined) continue;
      // Only what had grown beyond its size can be cut: it is a torn tail then.
      t.true(files.every((file) => file.length >= SEGMENT));
      t.true(opened.found.equals(states[opened.epoch ?? 0] as Buffer), `${length}`);
    }
  }
  t.is(await reopen(t, [undefined, second]), undefined);
  t.is(await reopen(t, [first, undefined]), undefined);
});

test('a journal of other disks or of an unknown version is refused by name', async (t) => {
  const { bytes } = await filled();
  const storage = new ModelStorage(new Prng(1));
  storage.disk('image-0', SIZES[0]);
  storage.disk('image-1', 8192);
  for (const [index, name] of JOURNALS.entries()) {
    storage.disk(name, SEGMENT).write(0, bytes[index] as Buffer);
  }
  await t.throwsAsync(SecondaryDisks.open(opening(storage)), {
    code: 'COLO_E_JOURNAL_FOREIGN',
    message: /guest\.journal-\d belongs to guest guest with disks of 32768, 20480 bytes, not to/,
  });
  storage.disk('guest.journal-0').cache.writeUInt32BE(2, 8);
  await t.throwsAsync(SecondaryDisks.open(opening(storage)), {
    code: 'COLO_E_JOURNAL_DAMAGED',
    message: /its version is 2, only 1 is known/,
  });
});

test('random bytes behind a good header are read in bounded pieces and are no epochs', async (t) => {
  const { bytes } = await filled();
  const prng = new Prng(5);
  for (let i = 0; i < 200; i++) {
    const copy = Buffer.from(bytes[0] as Buffer);
    const decoded = decodeHeader(copy);
    if (decoded.kind !== 'header') throw new Error('No header');
    // Keep some marks and heads, so that lengths are met in all places.
    for (let at = 4096; at < copy.length; at++) {
      if (prng.chance(i % 2 === 0 ? 0.9 : 0.002)) copy[at] = prng.nextUint32() & 0xff;
    }
    const { header } = decoded;
    const segment = { header, sizeBytes: copy.length, diskSizes: SIZES };
    const scan = scanSegment(segment, { chain: undefined, run: 0, lastEpoch: -1 });
    let step = scan.next(Buffer.alloc(0));
    for (let steps = 0; step.done !== true; steps++) {
      if (step.value.kind !== 'read') throw new Error('A scan shows no operations');
      const { offset, length } = step.value;
      t.true(length <= DISK_DATA_BYTES_MAX && steps < 10_000);
      step = scan.next(copy.subarray(offset, offset + length));
    }
    if (i % 2 === 0) t.deepEqual(step.value.epochs, []);
  }
});
