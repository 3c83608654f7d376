/** A disk that the guest may not write to, on both hosts. */
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import {
  ImageFile,
  ReplicatedDisk,
  type SecondaryDisk,
  SecondaryDisks,
} from '../../../src/blockrep/index.js';
import { ProtocolError } from '../../../src/lib/index.js';
import { collectingLog, temporaryDirectory } from './support.js';

const SIZE = 1 << 20;

async function readOnlyImage(t: ExecutionContext) {
  const directory = temporaryDirectory(t);
  const file = path.join(directory, 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(SIZE, 9), { mode: 0o400 });
  const image = await ImageFile.open({ path: file, readOnly: true, sizeBytes: SIZE });
  return { directory, file, image };
}

test('the replicated disk says so', async (t) => {
  const { image } = await readOnlyImage(t);
  const disk = new ReplicatedDisk({ base: image, onWrite: () => undefined });
  t.teardown(() => disk.close());
  t.true(disk.readOnly);
  t.deepEqual(await disk.read(0, 2), Buffer.from([9, 9]));
});

test('the secondary takes nothing of its peer for it, and is promoted as it is', async (t) => {
  const { directory, file, image } = await readOnlyImage(t);
  const log = collectingLog();
  const disks = await SecondaryDisks.open({ vm: 'g', images: [image], directory, log });
  const disk = disks.disks[0] as SecondaryDisk;
  t.teardown(() => disks.close());
  t.true(disk.readOnly);
  const message = /read-only/;
  await t.throwsAsync(disks.syncZero(0, 0, SIZE), { instanceOf: ProtocolError, message });
  await t.throwsAsync(disks.syncWrite(0, 0, Buffer.alloc(512)), { instanceOf: ProtocolError });
  t.throws(() => disks.stage(0, 1, { kind: 'trim', offset: 0, length: 512 }), {
    instanceOf: ProtocolError,
  });
  t.deepEqual(await disks.closeEpoch(0, 1, { operations: 0, bytes: 0 }), { ok: true });
  disks.commit(1);
  await disks.apply(1);
  await disks.promote();
  await disks.whenMerged();
  await disk.flush();
  t.is(disks.unfit, undefined);
  t.deepEqual(await disk.read(0, 2), Buffer.from([9, 9]));
  t.true(fs.readFileSync(file).equals(Buffer.alloc(SIZE, 9)));
});

test('an image of another size is refused', async (t) => {
  const { file, image } = await readOnlyImage(t);
  await image.close();
  await t.throwsAsync(ImageFile.open({ path: file, readOnly: true, sizeBytes: 2 * SIZE }), {
    code: 'COLO_E_IMAGE_SIZE',
  });
});
