/** What else than a raw file an image can be, and what happens to an image from outside. */
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ImageFile } from '../../../src/blockrep/index.js';
import { collectingLog, hasQcow2, hasTool, run, temporaryDirectory } from './support.js';

const MIB = 1 << 20;
const INDEX = new URL('../../../src/blockrep/index.js', import.meta.url);

/** A loop device over a new file; undefined, with the reason printed, where there are none. */
async function loopDevice(t: ExecutionContext, sizeBytes: number) {
  const file = path.join(temporaryDirectory(t), 'backing');
  fs.writeFileSync(file, '');
  fs.truncateSync(file, sizeBytes);
  const { status, stdout, stderr } = spawnSync('losetup', ['--find', '--show', file], {
    encoding: 'utf8',
  });
  if (status !== 0) {
    t.log(`no loop device: ${stderr?.trim() || 'losetup is not installed'}`);
    t.pass();
    return undefined;
  }
  const device = stdout.trim();
  t.teardown(() => run('losetup', '--detach', device));
  return { device, file };
}

/** Whether the process is a storage daemon that serves the image. */
function isDaemonOf(pid: string, image: string): boolean {
  if (!/^\d+$/.test(pid)) return false;
  try {
    const words = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    return words.startsWith('qemu-storage-daemon') && words.includes(image);
  } catch {
    return false;
  }
}

async function qcow2(t: ExecutionContext, ...options: string[]) {
  const file = path.join(temporaryDirectory(t), 'disk.qcow2');
  await run('qemu-img', 'create', '-q', '-f', 'qcow2', ...options, file, '16M');
  return file;
}

test('a block device is a disk of its size, and gives space back', async (t) => {
  const loop = await loopDevice(t, 8 * MIB);
  if (loop === undefined) return;
  const image = await ImageFile.open({ path: loop.device, sizeBytes: 8 * MIB });
  t.teardown(() => image.close());
  t.is(image.sizeBytes, 8 * MIB);
  t.deepEqual(image.dataRanges(), [{ offset: 0, length: 8 * MIB }]);
  const data = randomBytes(MIB);
  await image.write(2 * MIB, data, true);
  t.true((await image.read(2 * MIB, MIB)).equals(data));
  const before = fs.statSync(loop.file).blocks;
  await image.trim(2 * MIB, MIB / 2);
  await image.writeZeroes(2 * MIB + MIB / 2 + 1, 1000, { mayTrim: true, fua: true });
  const expected = Buffer.from(data);
  expected.fill(0, 0, MIB / 2).fill(0, MIB / 2 + 1, MIB / 2 + 1001);
  t.true((await image.read(2 * MIB, MIB)).equals(expected));
  t.true(fs.statSync(loop.file).blocks < before);
  await t.throwsAsync(ImageFile.open({ path: loop.device, sizeBytes: MIB }), {
    message: /EBUSY.*mounted or in use/,
  });
  await image.close();
  await t.throwsAsync(ImageFile.open({ path: loop.device, sizeBytes: MIB }), {
    code: 'COLO_E_IMAGE_SIZE',
    message: /8388608 bytes where 1048576 are expected/,
  });
  await t.throwsAsync(ImageFile.open({ path: loop.device, format: 'qcow2' }), {
    code: 'COLO_E_IMAGE_KIND',
    message: /a qcow2 image must be a regular file/,
  });
});

test('readers share an image, a writer is alone', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(1024));
  const readers = [
    await ImageFile.open({ path: file, readOnly: true }),
    await ImageFile.open({ path: file, readOnly: true, sizeBytes: 1024 }),
  ];
  await t.throwsAsync(ImageFile.open({ path: file }), { code: 'COLO_E_IMAGE_LOCKED' });
  for (const reader of readers) await reader.close();
  const writer = await ImageFile.open({ path: file });
  await t.throwsAsync(ImageFile.open({ path: file, readOnly: true }), {
    code: 'COLO_E_IMAGE_LOCKED',
  });
  await writer.close();
});

test('the refusal of a locked image names the process that has it', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(1024));
  const holder = spawn('flock', ['--no-fork', file, 'cat'], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.teardown(() => holder.kill('SIGKILL'));
  holder.stdin.write('held\n');
  await once(holder.stdout, 'data');
  const message = new RegExp(`another process \\(PID ${holder.pid}, cat\\)`);
  await t.throwsAsync(ImageFile.open({ path: file }), { code: 'COLO_E_IMAGE_LOCKED', message });
});

test('an image that QEMU has open is refused', async (t) => {
  if (!hasTool(t, 'qemu-io')) {
    t.pass();
    return;
  }
  const file = path.join(temporaryDirectory(t), 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(MIB));
  const hold = async (...flags: string[]) => {
    const qemu = spawn('qemu-io', ['-f', 'raw', ...flags, file], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    t.teardown(() => qemu.kill('SIGKILL'));
    qemu.stdin.write('read 0 512\n');
    await once(qemu.stdout, 'data');
    return async () => {
      qemu.kill('SIGKILL');
      await once(qemu, 'exit');
    };
  };
  const refusal = { code: 'COLO_E_IMAGE_LOCKED', message: /in use by QEMU or one of its tools/ };
  const endWriter = await hold();
  await t.throwsAsync(ImageFile.open({ path: file }), refusal);
  await t.throwsAsync(ImageFile.open({ path: file, readOnly: true }), refusal);
  await endWriter();
  const endReader = await hold('-r');
  await t.throwsAsync(ImageFile.open({ path: file }), refusal);
  await (await ImageFile.open({ path: file, readOnly: true })).close();
  await endReader();
  await (await ImageFile.open({ path: file })).close();
});

test('a missing image is not made where only reading was asked for', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  await t.throwsAsync(ImageFile.open({ path: file, readOnly: true, sizeBytes: 1024 }), {
    code: 'COLO_E_IMAGE_OPEN',
    message: /ENOENT/,
  });
  t.false(fs.existsSync(file));
});

test('without permission the message says what to change', async (t) => {
  if (process.getuid?.() !== 0) {
    t.log('only root can become somebody else: this check did not run');
    t.pass();
    return;
  }
  const directory = temporaryDirectory(t);
  fs.chmodSync(directory, 0o755);
  const file = path.join(directory, 'disk.img');
  fs.writeFileSync(file, Buffer.alloc(1024), { mode: 0o600 });
  // In a process of its own: who one is holds for all tests of a process.
  const program = `
    const { ImageFile } = await import(${JSON.stringify(INDEX.href)});
    process.setuid(65534);
    await ImageFile.open({ path: ${JSON.stringify(file)} }).catch((error) => {
      console.log(error.code, error.message);
    });`;
  const said = await run(process.execPath, '--input-type=module', '--eval', program);
  t.regex(said, /COLO_E_IMAGE_OPEN .*EACCES.*let the agent read and write it/);
});

test('a raw image that looks like qcow2 needs its format said', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  const bytes = Buffer.alloc(4096);
  bytes.write('QFI\xfb', 'latin1');
  fs.writeFileSync(file, bytes);
  await t.throwsAsync(ImageFile.open({ path: file }), {
    code: 'COLO_E_IMAGE_FORMAT',
    message: /looks like a qcow2 image; say format=qcow2, or format=raw/,
  });
  const image = await ImageFile.open({ path: file, format: 'raw' });
  t.true((await image.read(0, 4096)).equals(bytes));
  await image.close();
});

test('an image that was made smaller fails every flush, and reads of what is gone', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  const image = await ImageFile.open({ path: file, sizeBytes: 4 * MIB });
  t.teardown(() => image.close());
  await image.flush();
  fs.truncateSync(file, MIB);
  const message = /Cannot flush/;
  const error = await t.throwsAsync(image.flush(), { code: 'COLO_E_DISK', message });
  t.regex(String((error.cause as Error).message), /1048576 bytes now, where it had 4194304/);
  await t.throwsAsync(image.read(2 * MIB, 512), { code: 'COLO_E_DISK' });
});

test('an image that grew or was deleted is reported once and goes on', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  const grown = collectingLog();
  const image = await ImageFile.open({ path: file, sizeBytes: MIB, log: grown });
  fs.truncateSync(file, 2 * MIB);
  await image.flush();
  await image.flush();
  t.is(grown.lines.length, 1);
  t.regex(grown.lines[0] ?? '', /warn An image in use was enlarged.*2097152/);
  await image.close();
  const deleted = collectingLog();
  const second = await ImageFile.open({ path: file, log: deleted });
  fs.unlinkSync(file);
  await second.flush();
  t.regex(deleted.lines.join(), /error An image in use was deleted/);
  await second.close();
});

test('data ranges of a part are cut to it and counted', async (t) => {
  const file = path.join(temporaryDirectory(t), 'disk.img');
  const image = await ImageFile.open({ path: file, sizeBytes: 16 * MIB });
  t.teardown(() => image.close());
  for (const at of [1, 4, 7]) await image.write(at * MIB, Buffer.alloc(MIB, 1), true);
  const range = (from: number, to: number) => ({ offset: from * MIB, length: (to - from) * MIB });
  t.deepEqual(image.dataRanges(), [range(1, 2), range(4, 5), range(7, 8)]);
  t.deepEqual(image.dataRanges(range(1.5, 4.5)), [range(1.5, 2), range(4, 4.5)]);
  t.deepEqual(image.dataRanges({ ...range(0, 16), countMax: 2 }), [range(1, 2), range(4, 5)]);
  t.deepEqual(image.dataRanges(range(2, 4)), []);
});

test('a qcow2 image is a disk: reads, writes, holes, discards and flushes', async (t) => {
  if (!hasQcow2(t)) return;
  const file = await qcow2(t);
  const image = await ImageFile.open({ path: file, format: 'qcow2', sizeBytes: 16 * MIB });
  t.teardown(() => image.close());
  t.is(image.sizeBytes, 16 * MIB);
  t.deepEqual(image.dataRanges(), []);
  const data = randomBytes(4 * MIB);
  await image.write(4 * MIB, data, true);
  t.deepEqual(image.dataRanges(), [{ offset: 4 * MIB, length: 4 * MIB }]);
  const before = fs.statSync(file).blocks;
  await image.trim(4 * MIB, 2 * MIB);
  await image.flush();
  t.true(fs.statSync(file).blocks < before, 'The discard frees space of the qcow2 image');
  t.deepEqual(image.dataRanges(), [{ offset: 6 * MIB, length: 2 * MIB }]);
  t.deepEqual(await image.read(4 * MIB, 2 * MIB), Buffer.alloc(2 * MIB));
  await t.throwsAsync(ImageFile.open({ path: file, format: 'qcow2' }), {
    code: 'COLO_E_IMAGE_OPEN',
    message: /lock/i,
  });
  await image.close();
  t.regex(await run('qemu-img', 'check', file), /No errors were found/);
  const raw = path.join(path.dirname(file), 'raw');
  await run('qemu-img', 'convert', '-O', 'raw', file, raw);
  t.true(
    fs
      .readFileSync(raw)
      .subarray(6 * MIB, 8 * MIB)
      .equals(data.subarray(2 * MIB)),
  );
});

test('a qcow2 image with a backing file shows it and leaves it alone', async (t) => {
  if (!hasQcow2(t)) return;
  const base = path.join(temporaryDirectory(t), 'base.raw');
  fs.writeFileSync(base, Buffer.alloc(16 * MIB, 3));
  const file = await qcow2(t, '-b', base, '-F', 'raw');
  const image = await ImageFile.open({ path: file, format: 'qcow2' });
  await image.write(0, Buffer.alloc(MIB, 4), true);
  t.deepEqual(await image.read(MIB - 1, 2), Buffer.from([4, 3]));
  await image.close();
  t.is(fs.readFileSync(base)[0], 3);
});

test('a missing qcow2 image is made when its size is known', async (t) => {
  if (!hasQcow2(t)) return;
  const file = path.join(temporaryDirectory(t), 'new.qcow2');
  const image = await ImageFile.open({ path: file, format: 'qcow2', sizeBytes: 64 * MIB });
  t.deepEqual(image.dataRanges(), []);
  await image.close();
  t.true(fs.statSync(file).size < MIB);
  await t.throwsAsync(ImageFile.open({ path: file, format: 'qcow2', sizeBytes: MIB }), {
    code: 'COLO_E_IMAGE_SIZE',
  });
  await t.throwsAsync(ImageFile.open({ path: file }), { code: 'COLO_E_IMAGE_FORMAT' });
});

test('a read-only qcow2 image is read and never written', async (t) => {
  if (!hasQcow2(t)) return;
  const file = await qcow2(t);
  const before = fs.readFileSync(file);
  const image = await ImageFile.open({ path: file, format: 'qcow2', readOnly: true });
  t.deepEqual(await image.read(0, 4096), Buffer.alloc(4096));
  await t.throwsAsync(image.write(0, Buffer.alloc(512), false), { code: 'COLO_E_DISK' });
  await image.close();
  t.true(fs.readFileSync(file).equals(before));
});

test('a damaged qcow2 image is refused in the words of the storage daemon', async (t) => {
  if (!hasQcow2(t)) return;
  const file = path.join(temporaryDirectory(t), 'disk.qcow2');
  fs.writeFileSync(file, Buffer.alloc(MIB, 1));
  await t.throwsAsync(ImageFile.open({ path: file, format: 'qcow2' }), {
    code: 'COLO_E_IMAGE_OPEN',
    message: /Cannot open the qcow2 image .*not in qcow2 format/,
  });
  const base = path.join(path.dirname(file), 'base');
  fs.writeFileSync(base, Buffer.alloc(MIB));
  const orphan = await qcow2(t, '-b', base, '-F', 'raw');
  fs.unlinkSync(base);
  await t.throwsAsync(ImageFile.open({ path: orphan, format: 'qcow2' }), {
    code: 'COLO_E_IMAGE_OPEN',
    message: /backing file.*No such file/,
  });
});

test('without the right to mount the message says what a qcow2 image needs', async (t) => {
  if (!hasQcow2(t)) return;
  const file = await qcow2(t);
  const program = `
    const { ImageFile } = await import(${JSON.stringify(INDEX.href)});
    await ImageFile.open({ path: ${JSON.stringify(file)}, format: 'qcow2' }).catch((error) => {
      console.log(error.code, error.message);
    });`;
  const words = ['--bounding-set', '-sys_admin', '--inh-caps', '-sys_admin', process.execPath];
  const said = await run('setpriv', ...words, '--input-type=module', '--eval', program);
  t.regex(said, /COLO_E_IMAGE_OPEN .*not permitted; qcow2 images need .*CAP_SYS_ADMIN/);
});

test('when the storage daemon dies, requests fail, what was flushed is there', async (t) => {
  if (!hasQcow2(t)) return;
  const file = await qcow2(t);
  const log = collectingLog();
  const image = await ImageFile.open({ path: file, format: 'qcow2', log });
  const flushed = randomBytes(5 * MIB);
  await image.write(MIB, flushed, false);
  await image.flush();
  await image.write(8 * MIB, randomBytes(MIB), false);
  const daemons = fs.readdirSync('/proc').filter((pid) => isDaemonOf(pid, file));
  t.is(daemons.length, 1);
  process.kill(Number(daemons[0]), 'SIGKILL');
  while (log.lines.length === 0) await new Promise((resolve) => setImmediate(resolve));
  t.regex(log.lines.join(), /error The storage daemon of a qcow2 image is gone.*SIGKILL/);
  for (const work of [
    () => image.read(0, 512),
    () => image.write(0, Buffer.alloc(512), false),
    () => image.trim(0, 512),
    () => image.flush(),
  ]) {
    await t.throwsAsync(work, { code: 'COLO_E_DISK' });
  }
  await image.close();
  const again = await ImageFile.open({ path: file, format: 'qcow2' });
  t.true((await again.read(MIB, flushed.length)).equals(flushed));
  await again.close();
  t.regex(await run('qemu-img', 'check', '-r', 'leaks', file), /No errors were found/);
  t.is((await fs.promises.statfs(file)).type === 0x65735546, false, 'Nothing stays mounted');
});

test('the storage daemon does not outlive the process that started it', async (t) => {
  if (!hasQcow2(t)) return;
  const file = await qcow2(t);
  const module = new URL('../../../src/blockrep/qcow2-export-shell.js', import.meta.url);
  const program = `
    const { Qcow2Export } = await import(${JSON.stringify(module.href)});
    const exported = await Qcow2Export.start({ path: ${JSON.stringify(file)} });
    console.log(exported.pid);
    setInterval(() => {}, 1000);`;
  const agent = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => agent.kill('SIGKILL'));
  const [line] = await once(agent.stdout, 'data');
  const pid = Number(String(line));
  t.true(fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('qemu-storage-daemon'));
  agent.kill('SIGKILL');
  await once(agent, 'exit');
  // Its lock on the image is gone when it is; a zombie that nobody reaps has none either.
  for (let free = false; !free; ) {
    free = await run('qemu-io', '-f', 'qcow2', file, '-c', 'read 0 512').then(
      () => true,
      () => false,
    );
  }
  t.pass();
});
