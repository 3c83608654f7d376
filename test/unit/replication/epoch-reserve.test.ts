import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { EpochReserve } from '../../../src/replication/index.js';

async function reservePath(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'colo-epoch-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return join(directory, 'state', 'vm.epoch');
}

test('no run begins with an epoch that an earlier one may have used', async (t) => {
  const path = await reservePath(t);
  const first = await EpochReserve.open(path);
  t.is(first.first, 1);
  const second = await EpochReserve.open(path);
  t.true(second.first > first.first + 1000);
});

test('a run that lasts takes its next block before the first is used up', async (t) => {
  const path = await reservePath(t);
  const { reserve } = await EpochReserve.open(path);
  const before = Number(await readFile(path, 'utf8'));
  await reserve.used(10);
  t.is(Number(await readFile(path, 'utf8')), before);
  await reserve.used(before - 10);
  const next = await EpochReserve.open(path);
  t.true(next.first > before);
});

test('a file that holds no number is refused with its contents', async (t) => {
  const path = await reservePath(t);
  await EpochReserve.open(path);
  await writeFile(path, 'garbage');
  await t.throwsAsync(EpochReserve.open(path), { code: 'COLO_E_EPOCH_FILE', message: /garbage/ });
});
