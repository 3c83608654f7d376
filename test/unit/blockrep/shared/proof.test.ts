import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import test from 'ava';
import {
  parseSharedProofs,
  SharedProofs,
  sharedDifference,
} from '../../../../src/blockrep/index.js';
import {
  PROOF_SAMPLE_BYTES,
  PROOF_SAMPLES,
  PROOF_SAMPLES_EQUAL_MIN,
} from '../../../../src/blockrep/limits.js';
import {
  type DeviceProof,
  deviceDifference,
  sampleOffsets,
} from '../../../../src/blockrep/shared/proof.js';
import { run, temporaryDirectory } from '../support.js';

const MIB = 1 << 20;
const MIGRATION = 'ab'.repeat(16);

function image(directory: string, content: Buffer = Buffer.alloc(MIB)) {
  const file = path.join(directory, 'disk.img');
  fs.writeFileSync(file, content);
  return { name: 'root', path: file, sizeBytes: content.length };
}

function prove(place: ReturnType<typeof image>, migration = MIGRATION) {
  return SharedProofs.make([place], { migration, flush: () => Promise.resolve() });
}

function device(identity: string | null, changed = 0): DeviceProof {
  const samples = Array.from({ length: PROOF_SAMPLES }, (_, index) => {
    return (index < changed ? 'f' : '0').repeat(64);
  });
  return { kind: 'block', disk: 'root', identity, samples };
}

test('an image in the same folder is the same, by whatever path', async (t) => {
  const directory = temporaryDirectory(t);
  const place = image(directory);
  const shown = await prove(place);
  const [proof] = parseSharedProofs(JSON.parse(JSON.stringify(shown.proofs)));
  const linked = path.join(temporaryDirectory(t), 'mounted');
  fs.symlinkSync(directory, linked);
  const there = { ...place, path: path.join(linked, 'disk.img') };
  t.is(await sharedDifference(there, proof, MIGRATION), undefined);
  t.regex((await sharedDifference(there, proof, 'cd'.repeat(16))) ?? '', /is not in/);
  t.regex((await sharedDifference({ ...there, sizeBytes: 1 }, proof, MIGRATION)) ?? '', /bytes/);
  await shown.remove();
  t.deepEqual(fs.readdirSync(directory), ['disk.img']);
});

test('a copy, a stale word and a missing image are not it', async (t) => {
  const directory = temporaryDirectory(t);
  const place = image(directory);
  const shown = await prove(place);
  t.teardown(() => shown.remove());
  const [proof] = shown.proofs;
  const copy = temporaryDirectory(t);
  const there = image(copy);
  t.regex((await sharedDifference(there, proof, MIGRATION)) ?? '', /is not in/);
  const mark = fs.readdirSync(directory).find((name) => name !== 'disk.img') as string;
  fs.writeFileSync(path.join(copy, mark), 'another word');
  t.regex((await sharedDifference(there, proof, MIGRATION)) ?? '', /not what the source/);
  fs.rmSync(there.path);
  t.regex((await sharedDifference(there, proof, MIGRATION)) ?? '', /ENOENT/);
  t.regex((await sharedDifference(place, undefined, MIGRATION)) ?? '', /has not shown/);
  t.regex((await sharedDifference(place, device(null), MIGRATION)) ?? '', /is a file/);
});

test('what a source that died has left beside the image is removed by the next', async (t) => {
  const directory = temporaryDirectory(t);
  const place = image(directory);
  await prove(place, 'cd'.repeat(16));
  fs.writeFileSync(path.join(directory, 'disk.img.bak'), 'kept');
  const shown = await prove(place);
  await shown.remove();
  t.deepEqual(fs.readdirSync(directory).sort(), ['disk.img', 'disk.img.bak']);
});

test('a folder that can not be written to is told', async (t) => {
  const place = { name: 'root', path: '/proc/version', sizeBytes: 0 };
  await t.throwsAsync(prove(place), {
    code: 'COLO_E_DISK_SHARED',
    message: /let it write beside the images/,
  });
});

test('a device is known by what its kernel calls it, and by samples', (t) => {
  t.is(deviceDifference(device('wwid a'), device('wwid a')), undefined);
  t.regex(deviceDifference(device('wwid a'), device('wwid b')) ?? '', /it is wwid b/);
  // By one path on the one host, by several on the other.
  t.is(deviceDifference(device('wwid a'), device('dm mpath-a')), undefined);
  t.is(deviceDifference(device(null), device('dm mpath-a')), undefined);
  const few = PROOF_SAMPLES - PROOF_SAMPLES_EQUAL_MIN;
  t.is(deviceDifference(device(null), device(null, few)), undefined);
  t.regex(deviceDifference(device(null), device(null, few + 1)) ?? '', /other content/);
});

test('samples are inside of the device, its end among them', (t) => {
  for (const sizeBytes of [PROOF_SAMPLE_BYTES, MIB, 2 ** 45 + 512]) {
    const offsets = sampleOffsets(sizeBytes);
    t.is(offsets.length, PROOF_SAMPLES);
    t.is(offsets[0], 0);
    t.is(offsets.at(-1), sizeBytes - PROOF_SAMPLE_BYTES);
    t.true(offsets.every((at, index) => at % 512 === 0 && at >= (offsets[index - 1] ?? 0)));
  }
});

test('a block device is told from another one', async (t) => {
  const directory = temporaryDirectory(t);
  const loops = [1, 2].map((fill) => {
    const file = path.join(directory, `backing-${fill}`);
    fs.writeFileSync(file, Buffer.alloc(MIB, fill));
    const { status, stdout } = spawnSync('losetup', ['--find', '--show', file], {
      encoding: 'utf8',
    });
    if (status !== 0) return undefined;
    const loop = stdout.trim();
    t.teardown(() => run('losetup', '--detach', loop));
    return { name: 'root', path: loop, sizeBytes: MIB };
  });
  const [one, other] = loops;
  if (one === undefined || other === undefined) {
    t.log('there are no loop devices: this check did not run');
    t.pass();
    return;
  }
  const { proofs } = await prove(one);
  t.is(await sharedDifference(one, proofs[0], MIGRATION), undefined);
  t.regex((await sharedDifference(other, proofs[0], MIGRATION)) ?? '', /other content/);
});
