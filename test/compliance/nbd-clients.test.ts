/**
 * The NBD server and the clients that people have: libnbd's tools, QEMU's tools, fio. A client that
 * is not installed is left out with a printed line; `scripts/setup` installs all of them.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ImageFile } from '../../src/blockrep/index.js';
import { NBD_EXTENTS_MAX } from '../../src/blockrep/limits.js';
import {
  hasTool,
  MemoryDisk,
  run,
  serveDisks,
  serveImage,
  temporaryDirectory,
} from '../unit/blockrep/support.js';

const MIB = 1 << 20;

/** A test that passes, with the reason printed, where the program is missing. */
function testWith(tool: string, title: string, body: (t: ExecutionContext) => Promise<void>): void {
  test(`${tool}: ${title}`, async (t) => {
    if (hasTool(t, tool)) await body(t);
    else t.pass();
  });
}

/** 1 MiB of data at 1, 4 and 7 MiB of 16, the rest holes. */
async function sparse(t: ExecutionContext) {
  const served = await serveImage(t, 16 * MIB);
  const expected = Buffer.alloc(16 * MIB);
  for (const at of [1, 4, 7]) {
    const data = randomBytes(MIB);
    data.copy(expected, at * MIB);
    await served.image.write(at * MIB, data, true);
  }
  return { ...served, expected };
}

/** Bytes of storage behind a file. */
function storedBytes(file: string): number {
  return fs.statSync(file).blocks * 512;
}

async function qemuIo(uri: string, ...commands: string[]): Promise<string> {
  const words = commands.flatMap((command) => ['-c', command]);
  return run('qemu-io', '-f', 'raw', '-d', 'unmap', uri, ...words);
}

testWith('nbdinfo', 'sees the export as it is', async (t) => {
  const { uri } = await serveImage(t, 8 * MIB);
  const info = JSON.parse(await run('nbdinfo', '--json', uri('disk0')));
  t.is(info.protocol, 'newstyle-fixed');
  t.true(info.structured);
  const [disk] = info.exports;
  t.is(disk['export-size'], 8 * MIB);
  t.true(disk.can_flush && disk.can_fua && disk.can_trim && disk.can_zero);
  t.true(disk.can_multi_conn && disk.can_df);
  t.false(disk.is_read_only);
  t.deepEqual(disk.contexts, ['base:allocation']);
  t.is(disk.block_size_minimum, 1);
  t.is(disk.block_size_maximum, 32 * MIB);
});

testWith('nbdinfo', 'answers in each of its forms', async (t) => {
  const frozen = new MemoryDisk(MIB, { readOnly: true });
  const { uri } = await serveDisks(t, { disk0: new MemoryDisk(2 * MIB), frozen });
  t.is(await run('nbdinfo', '--size', uri('disk0')), `${2 * MIB}\n`);
  t.regex(await run('nbdinfo', uri('frozen')), /is_read_only: true/);
  await run('nbdinfo', '--is', 'read-only', uri('frozen'));
  await t.throwsAsync(run('nbdinfo', '--is', 'read-only', uri('disk0')));
  for (const ability of ['connect', 'write', 'trim', 'zero', 'flush', 'fua', 'multi-conn', 'df']) {
    await t.notThrowsAsync(run('nbdinfo', '--can', ability, uri('disk0')), ability);
  }
  for (const ability of ['cache', 'fast-zero']) {
    await t.throwsAsync(run('nbdinfo', '--can', ability, uri('disk0')), undefined, ability);
  }
  const list = JSON.parse(await run('nbdinfo', '--list', '--json', uri('')));
  t.deepEqual(
    list.exports.map((each: Record<string, unknown>) => [each['export-name'], each['export-size']]),
    [
      ['disk0', 2 * MIB],
      ['frozen', MIB],
    ],
  );
  await t.throwsAsync(run('nbdinfo', uri('nope')), { message: /nope|export/ });
});

testWith('nbdinfo', 'sees where the holes are', async (t) => {
  const { uri } = await sparse(t);
  const map = JSON.parse(await run('nbdinfo', '--map', '--json', uri('disk0')));
  t.deepEqual(
    map.map((each: Record<string, number>) => [each['offset'], each['length'], each['type']]),
    [
      [0, MIB, 3],
      [MIB, MIB, 0],
      [2 * MIB, 2 * MIB, 3],
      [4 * MIB, MIB, 0],
      [5 * MIB, 2 * MIB, 3],
      [7 * MIB, MIB, 0],
      [8 * MIB, 8 * MIB, 3],
    ],
  );
});

testWith('nbdinfo', 'sees all of more pieces than one answer holds', async (t) => {
  const pieces = NBD_EXTENTS_MAX * 2 + 7;
  const { uri, image } = await serveImage(t, (pieces + 1) * 128 * 1024);
  for (let i = 0; i < pieces; i++) {
    await image.write(i * 128 * 1024 + 65536, Buffer.alloc(65536, 1), false);
  }
  await image.flush();
  const map = JSON.parse(await run('nbdinfo', '--map', '--json', uri('disk0')));
  const data = map.filter((each: Record<string, unknown>) => each['type'] === 0);
  t.is(data.length, pieces);
  t.true(data.every((each: Record<string, unknown>) => each['length'] === 65536));
});

testWith('nbdcopy', 'copies in both directions over several connections', async (t) => {
  const { uri, directory, file, server } = await serveImage(t, 16 * MIB);
  const source = path.join(directory, 'source');
  const copy = path.join(directory, 'copy');
  const parts = [randomBytes(3 * MIB), Buffer.alloc(10 * MIB), randomBytes(3 * MIB)];
  fs.writeFileSync(source, Buffer.concat(parts));
  const many = ['--connections=4', '--requests=16', '--request-size=65536'];
  await run('nbdcopy', '--flush', ...many, source, uri('disk0'));
  t.true(fs.readFileSync(file).equals(Buffer.concat(parts)));
  t.true(storedBytes(file) < 8 * MIB, 'Zeroes arrive as holes');
  await run('nbdcopy', ...many, uri('disk0'), copy);
  t.true(fs.readFileSync(copy).equals(Buffer.concat(parts)));
  t.true(storedBytes(copy) < 8 * MIB, 'Holes arrive as holes');
  const stats = server.stats.exports['disk0'];
  t.is(stats?.errors, 0);
  t.true((stats?.bytesRead ?? 0) < 8 * MIB, 'Holes are not read');
});

testWith('nbdcopy', 'copies from one export to another', async (t) => {
  const { uri, image, expected } = await sparse(t);
  const target = new MemoryDisk(16 * MIB);
  target.bytes.fill(1);
  const other = await serveDisks(t, { copy: target });
  await run('nbdcopy', '--connections=4', uri('disk0'), other.uri('copy'));
  t.true(target.bytes.equals(expected));
  t.true((await image.read(0, 16 * MIB)).equals(expected));
});

testWith('qemu-io', 'reads what it wrote, zeroed and discarded, at any alignment', async (t) => {
  const { uri, server } = await serveImage(t, 8 * MIB);
  const output = await qemuIo(
    uri(''),
    ...['write -P 0x11 0 8M', 'write -P 0x22 -f 12345 4321', 'read -P 0x22 12345 4321'],
    ...['write -z 1M 256k', 'write -z -u 2M 256k', 'discard 3M 64k', 'flush'],
    ...['read -P 0 1M 256k', 'read -P 0 2M 256k', 'read -P 0 3M 64k', 'read -P 0x11 4M 4M'],
    ...['write -z -f 5000001 77', 'read -P 0 5000001 77', 'read -P 0x11 5000078 1000'],
    ...['aio_write -P 0x33 0 64k', 'aio_write -P 0x44 64k 64k', 'aio_flush'],
    ...['read -P 0x33 0 64k', 'read -P 0x44 64k 64k'],
  );
  t.notRegex(output, /failed|error|verification/i);
  t.is(server.stats.exports['disk0']?.errors, 0);
});

testWith('qemu-io', 'a discard and zeroes that may unmap free space, others keep it', async (t) => {
  const { uri, file } = await serveImage(t, 16 * MIB);
  await qemuIo(uri('disk0'), 'write -P 1 0 16M', 'flush');
  t.true(storedBytes(file) >= 16 * MIB);
  await qemuIo(uri('disk0'), 'discard 0 4M', 'flush');
  t.true(storedBytes(file) <= 12.5 * MIB, 'discard');
  await qemuIo(uri('disk0'), 'write -z -u 4M 4M', 'flush');
  t.true(storedBytes(file) <= 8.5 * MIB, 'write -z -u');
  await qemuIo(uri('disk0'), 'write -z 8M 4M', 'flush');
  t.true(storedBytes(file) >= 8 * MIB, 'write -z');
  t.true(fs.readFileSync(file).equals(Buffer.concat([Buffer.alloc(12 * MIB), ones(4 * MIB)])));
});

testWith('qemu-io', 'can not write to a read-only export, and reads it', async (t) => {
  const { uri } = await serveDisks(t, { disk0: new MemoryDisk(MIB, { readOnly: true }) });
  await t.throwsAsync(qemuIo(uri('disk0'), 'write 0 4k'));
  const output = await run('qemu-io', '-r', '-f', 'raw', uri('disk0'), '-c', 'read -P 0 0 1M');
  t.notRegex(output, /failed|verification/i);
});

testWith('qemu-io', 'hears that the image is full, and goes on where there is room', async (t) => {
  const directory = temporaryDirectory(t);
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'colo-nbd', directory]);
  if (mounted.status !== 0) {
    t.log('no file system can be mounted here: this check did not run');
    t.pass();
    return;
  }
  t.teardown(() => run('umount', directory));
  const image = await ImageFile.open({
    path: path.join(directory, 'disk.img'),
    sizeBytes: 8 * MIB,
  });
  t.teardown(() => image.close());
  const { uri, server } = await serveDisks(t, { disk0: image });
  t.regex(await qemuIoOutput(uri('disk0'), 'write 0 4M'), /No space left on device/);
  t.regex(await qemuIoOutput(uri('disk0'), 'write -P 5 0 64k'), /wrote 65536/);
  t.is(server.stats.exports['disk0']?.errors, 1);
});

testWith('qemu-img', 'convert and compare, sparse in both directions', async (t) => {
  const { uri, directory, file, expected } = await sparse(t);
  const raw = path.join(directory, 'raw');
  const qcow2 = path.join(directory, 'qcow2');
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri('disk0'), raw);
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri('disk0'), qcow2);
  t.true(fs.readFileSync(raw).equals(expected));
  t.true(storedBytes(raw) <= 4 * MIB && storedBytes(qcow2) <= 4 * MIB);
  t.regex(await run('qemu-img', 'compare', '-f', 'raw', raw, uri('disk0')), /identical/);
  t.regex(await run('qemu-img', 'compare', '-F', 'raw', qcow2, uri('disk0')), /identical/);
  const map = JSON.parse(await run('qemu-img', 'map', '--output=json', '-f', 'raw', uri('disk0')));
  t.is(map.filter((each: Record<string, unknown>) => each['data'] === true).length, 3);
  await qemuIo(uri('disk0'), 'write -P 1 0 16M', 'flush');
  await run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', raw, uri('disk0'));
  t.true(fs.readFileSync(file).equals(expected));
  await qemuIo(uri('disk0'), 'write -P 1 9M 1');
  await t.throwsAsync(run('qemu-img', 'compare', '-f', 'raw', raw, uri('disk0')), {
    message: /Content mismatch/,
  });
});

testWith('fio', 'writes at random over two connections and verifies what it reads', async (t) => {
  if (!spawnSync('fio', ['--enghelp'], { encoding: 'utf8' }).stdout.includes('nbd')) {
    t.log('this fio is built without libnbd: this check did not run');
    t.pass();
    return;
  }
  const { uri, server, directory } = await serveImage(t, 32 * MIB);
  const job = [
    ...['[global]', 'ioengine=nbd', `uri=${uri('disk0')}`, 'rw=randrw', 'bs=4k', 'iodepth=16'],
    ...['size=16M', 'io_size=8M', 'verify=crc32c', 'verify_fatal=1', 'do_verify=1', 'fsync=64'],
    ...['[low]', 'offset=0', '[high]', 'offset=16M', ''],
  ];
  const file = path.join(directory, 'job.fio');
  fs.writeFileSync(file, job.join('\n'));
  const words = ['--output-format=json', `--aux-path=${directory}`, file];
  const output = await run('fio', ...words);
  const result = JSON.parse(output.slice(output.indexOf('{')));
  for (const each of result.jobs) t.is(each.error, 0);
  const stats = server.stats.exports['disk0'];
  t.is(stats?.errors, 0);
  t.true((stats?.flushes ?? 0) > 0 && (stats?.bytesWritten ?? 0) >= 4 * MIB);
});

function ones(length: number): Buffer {
  return Buffer.alloc(length, 1);
}

/** What qemu-io says, also when a command of it fails. */
function qemuIoOutput(uri: string, command: string): Promise<string> {
  return qemuIo(uri, command).catch((error: Error) => error.message);
}
