/** QEMU itself as the client: a guest boots from each kind of disk, with others beside it. */
import fs from 'node:fs';
import path from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type BlockLayer, ImageFile, NbdServer } from '../../src/blockrep/index.js';
import { launchQemu } from '../../src/emulator/index.js';
import { bootSectorImage } from '../support/boot-sector-guest.js';
import { readCounters, silentLog, testMachine, until } from '../support/emulator-subjects.js';
import {
  collectingLog,
  hasQcow2,
  hasTool,
  run,
  temporaryDirectory,
} from '../unit/blockrep/support.js';

/** Boots from the first of the disks; resolves once the guest counts, QEMU being gone again. */
async function boot(t: ExecutionContext, disks: Record<string, BlockLayer>): Promise<NbdServer[]> {
  const runtimeDir = temporaryDirectory(t);
  const servers: NbdServer[] = [];
  const log = collectingLog();
  for (const [name, layer] of Object.entries(disks)) {
    const socketPath = path.join(runtimeDir, `disk-${name}`);
    const server = new NbdServer({ socketPath, exports: new Map([[name, layer]]), log });
    await server.start();
    t.teardown(() => server.stop());
    servers.push(server);
  }
  const emulator = await launchQemu({
    definition: {
      ...testMachine(runtimeDir),
      extraArguments: [],
      disks: Object.entries(disks).map(([name, { sizeBytes, readOnly }]) => ({
        name,
        sizeBytes,
        readOnly,
      })),
    },
    ...{ ramMapping: 'shared', startPaused: false, log: silentLog },
    ...{ diskSockets: servers.map((server) => server.socketPath), nicFds: [], runtimeDir },
  });
  t.teardown(() => emulator.kill());
  await until('The first count', () => readCounters(emulator).memory > 0);
  // Drains and flushes: also what a disk that can't be written has to take.
  await emulator.pause();
  await emulator.resume();
  await emulator.kill();
  return servers;
}

function hasQemu(t: ExecutionContext): boolean {
  if (hasTool(t, 'qemu-system-x86_64')) return true;
  t.pass();
  return false;
}

function bootImage(t: ExecutionContext): string {
  const file = path.join(temporaryDirectory(t), 'boot.img');
  fs.writeFileSync(file, bootSectorImage());
  return file;
}

test('a guest boots from a raw image, with a read-only one beside it', async (t) => {
  if (!hasQemu(t)) return;
  const root = await ImageFile.open({ path: bootImage(t) });
  const frozen = await ImageFile.open({ path: bootImage(t), readOnly: true });
  t.teardown(() => Promise.all([root.close(), frozen.close()]));
  const [rootServer, frozenServer] = await boot(t, { root, frozen });
  t.true((rootServer?.stats.exports['root']?.bytesRead ?? 0) > 0);
  t.is(rootServer?.stats.exports['root']?.errors, 0);
  t.is(frozenServer?.stats.exports['frozen']?.bytesWritten, 0);
});

test('a guest boots from a read-only image', async (t) => {
  if (!hasQemu(t)) return;
  const root = await ImageFile.open({ path: bootImage(t), readOnly: true });
  t.teardown(() => root.close());
  const [server] = await boot(t, { root });
  t.true((server?.stats.exports['root']?.bytesRead ?? 0) > 0);
});

test('a guest boots from a qcow2 image over a backing file', async (t) => {
  if (!hasQemu(t) || !hasQcow2(t)) return;
  const file = path.join(temporaryDirectory(t), 'boot.qcow2');
  await run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', bootImage(t), '-F', 'raw', file);
  const root = await ImageFile.open({ path: file, format: 'qcow2' });
  t.teardown(() => root.close());
  const [server] = await boot(t, { root });
  t.true((server?.stats.exports['root']?.bytesRead ?? 0) > 0);
});
