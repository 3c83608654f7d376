import fs from 'node:fs';
import path from 'node:path';
import test from 'ava';
import { ChangeMap, changeMapBytes } from '../../../../src/blockrep/generation/change-map.js';
import { ChangeMapFile } from '../../../../src/blockrep/generation/change-map-shell.js';
import { DIRTY_CLUSTER_BYTES as CLUSTER } from '../../../../src/blockrep/limits.js';
import { changeMapMemory } from '../../../support/change-map-memory.js';
import { temporaryDirectory } from '../support.js';
import { BOOT, generation, OTHER_BOOT } from './records.js';

const SIZE = 100 * CLUSTER + 512;
const OPTIONS = { sizeBytes: SIZE, bootId: BOOT };
const NAME = generation(1);

function clusters(map: ChangeMap): number[] {
  const found: number[] = [];
  for (const { offset, length } of map.ranges()) {
    for (let at = offset; at < offset + length; at += CLUSTER) found.push(at / CLUSTER);
  }
  return found;
}

function begun(): { map: ChangeMap; memory: ReturnType<typeof changeMapMemory> } {
  const memory = changeMapMemory(SIZE);
  const map = new ChangeMap(memory, OPTIONS);
  map.begin(NAME, 5);
  return { map, memory };
}

test('a new file is a map without a base', (t) => {
  const map = new ChangeMap(changeMapMemory(SIZE), OPTIONS);
  t.deepEqual(map.state, { trusted: false });
  map.begin(NAME, 5);
  t.deepEqual(map.state, { trusted: true, base: { generation: NAME, epoch: 5 } });
  t.deepEqual(clusters(map), []);
});

test('a range marks every cluster that it touches, to the last byte of the disk', (t) => {
  const { map } = begun();
  map.mark(CLUSTER - 1, 2);
  map.mark(31 * CLUSTER, 2 * CLUSTER);
  map.mark(SIZE - 1, 1);
  map.mark(50 * CLUSTER, 0);
  t.deepEqual(clusters(map), [0, 1, 31, 32, 100]);
  t.deepEqual([...map.ranges()].at(-1), { offset: 100 * CLUSTER, length: 512 });
});

test('what was written up to a committed edge is forgotten, later writes are not', (t) => {
  const { map } = begun();
  map.mark(0, 1);
  map.edge(6);
  map.mark(CLUSTER, 1);
  t.deepEqual(clusters(map), [0, 1]);
  map.committed(NAME, 6);
  t.deepEqual(clusters(map), [1]);
  t.deepEqual(map.state.base, { generation: NAME, epoch: 6 });
  map.edge(7);
  map.committed(NAME, 7);
  t.deepEqual(clusters(map), []);
});

test('epochs that were not committed stay until a later one is', (t) => {
  const { map } = begun();
  map.mark(0, 1);
  map.edge(6);
  map.mark(CLUSTER, 1);
  map.edge(7);
  map.mark(2 * CLUSTER, 1);
  map.committed(NAME, 6);
  t.deepEqual(clusters(map), [0, 1, 2], 'only the last edge is remembered');
  t.is(map.state.base?.epoch, 5);
  map.committed(NAME, 7);
  t.deepEqual(clusters(map), [0, 2], 'too many, for an epoch');
  map.edge(8);
  map.committed(NAME, 8);
  t.deepEqual(clusters(map), []);
});

test('a commit that comes after the session is over forgets nothing', (t) => {
  const { map } = begun();
  map.mark(0, 1);
  map.edge(6);
  map.sessionOver();
  map.committed(generation(2), 6);
  t.deepEqual(clusters(map), [0]);
  t.deepEqual(map.state.base, { generation: NAME, epoch: 5 });
  for (const epoch of [9, 10]) {
    map.edge(epoch);
    map.committed(generation(2), epoch);
    t.deepEqual(map.state.base, { generation: generation(2), epoch });
  }
  t.deepEqual(clusters(map), []);
});

test('the map of a killed agent is believed in the same boot only', (t) => {
  const { map, memory } = begun();
  map.mark(0, 1);
  map.edge(6);
  map.mark(CLUSTER, 1);
  const again = new ChangeMap(changeMapMemory(SIZE, memory), OPTIONS);
  t.deepEqual(clusters(again), [0, 1]);
  t.deepEqual(again.state.base, { generation: NAME, epoch: 5 });
  // What the killed agent had at its edge is forgotten with the second of the new one.
  for (const epoch of [20, 21]) {
    again.edge(epoch);
    again.committed(NAME, epoch);
  }
  t.deepEqual(clusters(again), []);
  const afterBoot = { sizeBytes: SIZE, bootId: OTHER_BOOT };
  const lost = new ChangeMap(changeMapMemory(SIZE, memory), afterBoot);
  t.deepEqual(lost.state, { trusted: false });
  t.deepEqual(clusters(lost), []);
  lost.mark(0, 1);
  lost.edge(21);
  lost.committed(NAME, 21);
  t.true(lost.state.trusted, 'it is good again from the next common epoch on');
});

test('a map that was closed in order is believed after a boot, once', (t) => {
  const { map, memory } = begun();
  map.mark(0, 1);
  map.markClean();
  const copy = changeMapMemory(SIZE, memory);
  const again = new ChangeMap(copy, { sizeBytes: SIZE, bootId: OTHER_BOOT });
  t.deepEqual(clusters(again), [0]);
  t.true(again.state.trusted);
  const third = new ChangeMap(changeMapMemory(SIZE, copy), OPTIONS);
  t.false(third.state.trusted);
});

test('a map of another format or size is not believed', (t) => {
  const { memory } = begun();
  for (const field of [0, 1, 2]) {
    const copy = changeMapMemory(SIZE, memory);
    copy.header[field] = (copy.header[field] as bigint) + 1n;
    t.false(new ChangeMap(copy, OPTIONS).state.trusted);
  }
  const other = { sizeBytes: SIZE + 512, bootId: BOOT };
  t.false(new ChangeMap(changeMapMemory(SIZE, memory), other).state.trusted);
  t.throws(() => new ChangeMap(memory, { sizeBytes: SIZE * 1000, bootId: BOOT }));
});

test('bits behind the end of the disk mean nothing', (t) => {
  const { memory } = begun();
  memory.words.fill(0xffff_ffff, 1024);
  const map = new ChangeMap(memory, OPTIONS);
  t.deepEqual([...map.ranges()], [{ offset: 0, length: SIZE }]);
});

test('a distrusted map has no base until the next commit', (t) => {
  const { map } = begun();
  map.distrust();
  t.deepEqual(map.state, { trusted: false });
  map.edge(6);
  map.committed(NAME, 6);
  t.true(map.state.trusted);
});

test('the file keeps the bits of an agent that never closed it', async (t) => {
  const file = path.join(temporaryDirectory(t), 'web.root.changes');
  const first = await ChangeMapFile.open(file, OPTIONS);
  first.map.begin(NAME, 5);
  first.map.mark(3 * CLUSTER, 1);
  t.is(fs.statSync(file).mode & 0o777, 0o600);
  t.is(fs.statSync(file).size, changeMapBytes(SIZE));
  t.true(fs.statSync(file).blocks * 512 >= changeMapBytes(SIZE), 'no store can fail for space');
  const second = await ChangeMapFile.open(file, OPTIONS);
  t.deepEqual(clusters(second.map), [3]);
  await second.close();
  await second.close();
  const third = await ChangeMapFile.open(file, { sizeBytes: SIZE, bootId: OTHER_BOOT });
  t.deepEqual(third.map.state, { trusted: true, base: { generation: NAME, epoch: 5 } });
  t.deepEqual(clusters(third.map), [3]);
  await third.close();
  await first.close();
});

test('a file of another size is made anew', async (t) => {
  const file = path.join(temporaryDirectory(t), 'web.root.changes');
  for (const length of [0, 100, changeMapBytes(SIZE) - 1, changeMapBytes(SIZE) + 4096]) {
    fs.writeFileSync(file, Buffer.alloc(length, 0xff));
    const opened = await ChangeMapFile.open(file, OPTIONS);
    t.deepEqual(opened.map.state, { trusted: false });
    t.deepEqual(clusters(opened.map), []);
    await opened.close();
    t.is(fs.statSync(file).size, changeMapBytes(SIZE));
  }
});
