import test from 'ava';
import { Staging } from '../../../src/secondary/staging.js';

const ram = { epoch: 7, frames: 1, pages: 2, digest: 3, deviceStateBytes: 4 };
const disk = { epoch: 7, disk: 0, operations: 5, bytes: 6 };
const end = {
  epoch: 7,
  ramFrames: 1,
  ramPages: 2,
  ramDigest: 3,
  deviceStateBytes: 4,
  disks: [{ operations: 5, bytes: 6 }],
  svmRuns: false,
  sinceResumeUs: 0,
};

test('an epoch is complete with its last part, whichever that is', (t) => {
  const adds = [
    (s: Staging) => s.addRam(ram),
    (s: Staging) => s.addDisk(disk),
    (s: Staging) => s.addEnd(end),
  ];
  for (const order of [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ]) {
    const staging = new Staging();
    for (const [count, index] of order.entries()) {
      t.is(staging.complete()?.epoch, undefined);
      t.is(adds[index]?.(staging), undefined);
      t.is(staging.complete()?.epoch, count === 2 ? 7 : undefined);
    }
  }
});

test('each number that differs from the end record is a disagreement', (t) => {
  for (const key of ['frames', 'pages', 'digest', 'deviceStateBytes'] as const) {
    const staging = new Staging();
    staging.addEnd(end);
    t.regex(
      staging.addRam({ ...ram, [key]: 99 }) ?? '',
      /^RAM of epoch 7: .* expected 1\/2\/3\/4$/,
    );
  }
  for (const key of ['operations', 'bytes'] as const) {
    const staging = new Staging();
    staging.addEnd(end);
    t.regex(staging.addDisk({ ...disk, [key]: 99 }) ?? '', /expected 5 of 6$/);
  }
});

test('a disk that the end record does not know is a disagreement', (t) => {
  const staging = new Staging();
  staging.addEnd(end);
  t.regex(staging.addDisk({ ...disk, disk: 1 }) ?? '', /expected undefined/);
});

test('a part of another epoch is a disagreement, before the end record too', (t) => {
  const staging = new Staging();
  staging.addRam(ram);
  t.is(staging.addDisk({ ...disk, epoch: 8 }), 'Parts of epochs 7, 8 arrived together');
});

test('a part that comes twice is a disagreement', (t) => {
  const staging = new Staging();
  staging.addRam(ram);
  staging.addDisk(disk);
  staging.addEnd(end);
  t.is(staging.addRam(ram), 'RAM of epoch 7 ended twice');
  t.is(staging.addDisk(disk), 'Disk 0 of epoch 7 ended twice');
  t.is(staging.addEnd(end), 'Epoch 7 ended twice');
});
