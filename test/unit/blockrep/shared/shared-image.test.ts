import fs from 'node:fs';
import path from 'node:path';
import test from 'ava';
import { ImageFile, SecondaryDisks, SharedImage } from '../../../../src/blockrep/index.js';
import { ProtocolError } from '../../../../src/lib/index.js';
import { collectingLog, temporaryDirectory } from '../support.js';

const MIB = 1 << 20;
const PAGE = Buffer.alloc(4096, 7);

function place(directory: string): { path: string; sizeBytes: number } {
  const file = path.join(directory, 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(MIB));
  return { path: file, sizeBytes: MIB };
}

test('an image is open at one host at a time, and has what the other wrote', async (t) => {
  const options = place(temporaryDirectory(t));
  const here = await SharedImage.open(options);
  const there = SharedImage.elsewhere(options);
  t.teardown(() => Promise.all([here.close(), there.close()]));
  await here.write(8192, PAGE, false);
  await t.throwsAsync(there.enter(), { code: 'COLO_E_IMAGE_LOCKED' });
  // What QEMU looks at when it starts.
  t.deepEqual(await there.read(8192, PAGE.length), PAGE);
  await t.throwsAsync(there.write(0, PAGE, false), { message: /another host's at this time/ });
  await t.throwsAsync(there.read(MIB, 512), { message: /Cannot read the image/ });
  await here.leave();
  await t.throwsAsync(here.write(0, PAGE, false), { message: /another host's at this time/ });
  await there.enter();
  t.deepEqual(await there.read(8192, PAGE.length), PAGE);
  await there.leave();
  t.false(await here.hasChanged());
  await here.enterAgain();
  await here.write(0, PAGE, true);
});

test('a host that takes an image back waits for the other to close it', async (t) => {
  const options = place(temporaryDirectory(t));
  const here = await SharedImage.open(options);
  t.teardown(() => here.close());
  await here.leave();
  const other = await ImageFile.open({ path: options.path });
  const again = here.enterAgain();
  await other.write(0, PAGE, true);
  await other.close();
  await again;
  t.deepEqual(await here.read(0, PAGE.length), PAGE);
});

test('what another host has written since is noticed', async (t) => {
  const options = place(temporaryDirectory(t));
  const here = await SharedImage.open(options);
  t.teardown(() => here.close());
  await here.leave();
  const later = Date.now() / 1000 + 10;
  fs.utimesSync(options.path, later, later);
  t.true(await here.hasChanged());
});

test('no image is made, and one of another size is not taken', async (t) => {
  const options = place(temporaryDirectory(t));
  const other = SharedImage.elsewhere({ ...options, sizeBytes: 2 * MIB });
  await t.throwsAsync(other.enter(), { code: 'COLO_E_IMAGE_SIZE' });
  const image = await ImageFile.open({ path: options.path });
  await image.close();
  fs.rmSync(options.path);
  await t.throwsAsync(SharedImage.elsewhere(options).enter(), { code: 'COLO_E_IMAGE_OPEN' });
  t.false(fs.existsSync(options.path));
});

test('a guest that comes writes beside its shared image until it is promoted', async (t) => {
  const directory = temporaryDirectory(t);
  const image = SharedImage.elsewhere(place(directory));
  const log = collectingLog();
  const disks = await SecondaryDisks.open({ vm: 'web', images: [image], directory, log });
  const [disk] = disks.disks;
  t.throws(() => disks.stage(0, 1, { kind: 'write', offset: 0, data: PAGE }), {
    instanceOf: ProtocolError,
  });
  await image.enter();
  disks.expectPromotion();
  await disk?.write(0, PAGE, false);
  t.deepEqual(fs.readFileSync(image.path).subarray(0, 4096), Buffer.alloc(4096));
  t.deepEqual(await disk?.read(0, 4096), PAGE);
  await disks.promote();
  await disks.whenMerged();
  t.deepEqual(fs.readFileSync(image.path).subarray(0, 4096), PAGE);
  await disks.close();
  t.deepEqual(fs.readdirSync(directory), ['disk.img']);
});

test('beside a shared disk another one is still staged', async (t) => {
  const directory = temporaryDirectory(t);
  const own = await ImageFile.open({ path: path.join(directory, 'own.img'), sizeBytes: MIB });
  const images = [own, SharedImage.elsewhere(place(directory))];
  const log = collectingLog();
  const disks = await SecondaryDisks.open({ vm: 'web', images, directory, log });
  t.teardown(() => disks.close());
  const write = { kind: 'write', offset: 0, data: PAGE } as const;
  t.notThrows(() => disks.stage(0, 1, write));
  t.throws(() => disks.stage(1, 1, write), { message: /is shared and takes nothing/ });
});
