import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ImageFile } from '../../../src/blockrep/index.js';
import { temporaryDirectory } from './support.js';

const MIB = 1 << 20;

async function open(t: ExecutionContext, sizeBytes = 4 * MIB) {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  const image = await ImageFile.open({ path: file, sizeBytes });
  t.teardown(() => image.close());
  return { file, image };
}

test('a missing image is created sparse and reads as zeroes', async (t) => {
  const { file, image } = await open(t, 64 * MIB);
  t.is(fs.statSync(file).size, 64 * MIB);
  t.is(fs.statSync(file).blocks, 0);
  t.deepEqual(await image.read(MIB, 4096), Buffer.alloc(4096));
  t.deepEqual(image.dataRanges(), []);
});

test('what was written is read, in the file too', async (t) => {
  const { file, image } = await open(t);
  const data = randomBytes(70_001);
  await image.write(12_345, data, true);
  t.true((await image.read(12_345, data.length)).equals(data));
  const inFile = fs.readFileSync(file).subarray(12_345, 12_345 + data.length);
  t.true(inFile.equals(data));
});

test('writeMany writes its parts one after the other', async (t) => {
  const { image } = await open(t);
  const parts = [1, 2, 3].map((value) => Buffer.alloc(value * 100, value));
  await image.writeMany(512, parts);
  t.deepEqual(await image.read(512, 600), Buffer.concat(parts));
});

test('trimmed and zeroed ranges read as zeroes, to the byte', async (t) => {
  const { image } = await open(t);
  await image.write(0, Buffer.alloc(MIB, 7), false);
  await image.trim(1000, 100_000);
  await image.writeZeroes(200_001, 3, { mayTrim: false, fua: true });
  await image.writeZeroes(300_000, 50_000, { mayTrim: true, fua: false });
  const expected = Buffer.alloc(MIB, 7);
  expected.fill(0, 1000, 101_000).fill(0, 200_001, 200_004).fill(0, 300_000, 350_000);
  t.true((await image.read(0, MIB)).equals(expected));
});

test('a trim gives space back and shows in the data ranges', async (t) => {
  const { file, image } = await open(t);
  await image.write(0, randomBytes(2 * MIB), true);
  const before = fs.statSync(file).blocks;
  await image.trim(0, MIB);
  await image.flush();
  t.true(fs.statSync(file).blocks < before);
  t.deepEqual(image.dataRanges(), [{ offset: MIB, length: MIB }]);
});

test('flushes at once all resolve', async (t) => {
  const { image } = await open(t);
  await image.write(0, randomBytes(MIB), false);
  await t.notThrowsAsync(Promise.all([image.flush(), image.flush(), image.flush()]));
  await t.notThrowsAsync(image.flush());
});

test('an image open for writing can not be opened a second time', async (t) => {
  const { file, image } = await open(t);
  await t.throwsAsync(ImageFile.open({ path: file }), {
    code: 'COLO_E_IMAGE_LOCKED',
    message: /in use by this process \(PID \d+, node\); stop that one first/,
  });
  await image.close();
  const again = await ImageFile.open({ path: file });
  await again.close();
});

test('what can not be an image is refused with the reason', async (t) => {
  const directory = temporaryDirectory(t);
  const odd = path.join(directory, 'odd');
  fs.writeFileSync(odd, Buffer.alloc(1000));
  const empty = path.join(directory, 'empty');
  fs.writeFileSync(empty, '');
  const cases: [string, string, RegExp][] = [
    [path.join(directory, 'missing'), 'COLO_E_IMAGE_OPEN', /create it or correct the path/],
    [odd, 'COLO_E_IMAGE_SIZE', /1000 bytes, not a positive multiple of 512/],
    [empty, 'COLO_E_IMAGE_SIZE', /0 bytes/],
    [directory, 'COLO_E_IMAGE_KIND', /is a directory, not an image/],
    [path.join(odd, 'below'), 'COLO_E_IMAGE_OPEN', /ENOTDIR.*correct the path/],
    ['/dev/null', 'COLO_E_IMAGE_KIND', /neither a regular file nor a block device/],
  ];
  for (const [file, code, message] of cases) {
    await t.throwsAsync(ImageFile.open({ path: file }), { code, message });
  }
});

test('an image of another size than expected is refused and left alone', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(1024, 1));
  await t.throwsAsync(ImageFile.open({ path: file, sizeBytes: 2048 }), {
    code: 'COLO_E_IMAGE_SIZE',
    message: /1024 bytes where 2048 are expected/,
  });
  t.deepEqual(fs.readFileSync(file), Buffer.alloc(1024, 1));
});

test('a read-only image can be read and says so', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(1024, 5));
  const image = await ImageFile.open({ path: file, readOnly: true });
  t.true(image.readOnly);
  t.deepEqual(await image.read(512, 512), Buffer.alloc(512, 5));
  await t.throwsAsync(image.write(0, Buffer.alloc(512), false), { code: 'COLO_E_DISK' });
  await image.close();
});
