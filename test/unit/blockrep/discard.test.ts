/** What the guest discards on the primary is free on both hosts. */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import test from 'ava';
import { ImageFile, ReplicatedDisk, SecondaryDisks } from '../../../src/blockrep/index.js';
import { collectingLog, temporaryDirectory } from './support.js';

const MIB = 1 << 20;

test('a discard and zeroes that may unmap free space of both images', async (t) => {
  const directory = temporaryDirectory(t);
  const file = (name: string) => path.join(directory, name);
  const [base, image] = [
    await ImageFile.open({ path: file('primary'), sizeBytes: 8 * MIB }),
    await ImageFile.open({ path: file('secondary'), sizeBytes: 8 * MIB }),
  ];
  const log = collectingLog();
  const there = await SecondaryDisks.open({ vm: 'g', images: [image], directory, log });
  let [epoch, operations, bytes] = [1, 0, 0];
  const here = new ReplicatedDisk({
    base,
    onWrite: (operation) => {
      operations += 1;
      bytes += operation.kind === 'write' ? operation.data.length : operation.length;
      return there.stage(0, epoch, operation);
    },
  });
  t.teardown(() => Promise.all([here.close(), there.close()]));
  here.setMode('forwarding');
  const stored = async () => {
    t.deepEqual(await there.closeEpoch(0, epoch, { operations, bytes }), { ok: true });
    there.commit(epoch);
    await there.apply(epoch);
    [epoch, operations, bytes] = [epoch + 1, 0, 0];
    await Promise.all([here.flush(), image.flush()]);
    return ['primary', 'secondary'].map((name) => fs.statSync(file(name)).blocks * 512);
  };
  for (let at = 0; at < 8 * MIB; at += MIB) await here.write(at, randomBytes(MIB), false);
  for (const size of await stored()) t.true(size >= 8 * MIB);
  await here.trim(MIB, 3 * MIB);
  await here.writeZeroes(5 * MIB, 2 * MIB, { mayTrim: true, fua: false });
  for (const size of await stored()) t.true(size < 3.5 * MIB, `${size} bytes are left`);
  t.true(fs.readFileSync(file('primary')).equals(fs.readFileSync(file('secondary'))));
  t.deepEqual(await here.read(MIB, 3 * MIB), Buffer.alloc(3 * MIB));
});
