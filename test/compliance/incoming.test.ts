/** A guest that comes into a QEMU which waits for it, instead of into one that has been started. */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type Emulator, launchQemu } from '../../src/emulator/index.js';
import type { Logger } from '../../src/lib/index.js';
import { COUNTERS_BYTES, COUNTERS_OFFSET } from '../support/boot-sector-guest.js';
import { cleanUpAfterEach } from '../support/clean-ups.js';
import {
  makeTestDirectory,
  qemuSubject,
  readCounters,
  silentLog,
  testMachine,
  until,
} from '../support/emulator-subjects.js';
import { differingPages, ramOf } from '../support/guest-pages.js';

const addCleanUp = cleanUpAfterEach();
const tcg = qemuSubject('tcg', addCleanUp);
const { serial } = test;
/** Of the package seabios. */
const DEBIAN_BIOS = '/usr/share/seabios/bios-256k.bin';

/** A guest that has run, and stands. */
async function stoodGuest(): Promise<{ emulator: Emulator; state: Buffer; ram: Buffer }> {
  const { emulator, untilItRuns } = await tcg.launch({ ramMapping: 'shared', startPaused: false });
  await untilItRuns();
  await emulator.pause();
  return { emulator, state: await emulator.saveDeviceState(), ram: ramOf(emulator) };
}

async function overwriteRam(emulator: Emulator, ram: Buffer): Promise<void> {
  await emulator.dropPrivate(emulator.scanPrivate());
  emulator.ram.writeFile(0, ram);
}

for (const ramMapping of ['shared', 'private'] as const) {
  serial(
    `a guest comes, runs, is saved, loaded again and rebooted: ${ramMapping} RAM`,
    async (t) => {
      const source = await stoodGuest();
      const { emulator, untilItRuns } = await tcg.launch({
        ...{ ramMapping, startPaused: true, incoming: true },
      });
      t.false(emulator.loadResets);
      t.deepEqual(emulator.scanPrivate(), [], 'QEMU has written no ROM contents');
      emulator.ram.writeFile(0, source.ram);
      await emulator.loadDeviceState(source.state);
      t.true(emulator.loadResets);
      t.deepEqual(differingPages(source.ram, ramOf(emulator)), [], 'the load changes no RAM');
      await emulator.resume();
      await untilItRuns();
      await emulator.pause();
      const [state, ram] = [await emulator.saveDeviceState(), ramOf(emulator)];
      t.is(state.length, source.state.length);
      // As often as wanted, in the way of a secondary.
      await emulator.loadDeviceState(state);
      await overwriteRam(emulator, ram);
      const { memory } = readCounters(emulator);
      await emulator.resume();
      await untilItRuns();
      // Its BIOS has come along: it boots once more.
      await emulator.pause();
      t.true(readCounters(emulator).memory > memory);
      // A boot begins to count at 0; it must not have come this far before anybody looks.
      const late = ramOf(emulator);
      late.fill(0xff, COUNTERS_OFFSET, COUNTERS_OFFSET + COUNTERS_BYTES);
      await overwriteRam(emulator, late);
      const { memory: last } = readCounters(emulator);
      t.is(last, 0xffff_ffff);
      await emulator.reset();
      await emulator.resume();
      await until('A boot', () => readCounters(emulator).memory < last);
      await untilItRuns();
    },
  );
}

serial('a state that QEMU refuses ends it, and its words are told', async (t) => {
  const { state } = await stoodGuest();
  const noise = Buffer.from(state);
  noise.fill(0xa5, 12, state.length - 1);
  const half = Buffer.concat([state.subarray(0, state.length >> 1), Buffer.alloc(1)]);
  for (const broken of [noise, half]) {
    const { emulator } = await tcg.launch({
      ...{ ramMapping: 'shared', startPaused: true, incoming: true },
    });
    await t.throwsAsync(emulator.loadDeviceState(broken), {
      code: 'COLO_E_QEMU',
      message: /load of migration failed/,
    });
    t.regex((await emulator.exited).reason, /exit code 1/);
  }
});

serial('a QEMU whose BIOS is not found takes a guest in the other way', async (t) => {
  const source = await stoodGuest();
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  // A name that can't be read in QEMU's list.
  const bios = join(directory.path, 'a"b');
  copyFileSync(DEBIAN_BIOS, bios);
  const warnings: unknown[] = [];
  const emulator = await launchIncoming(directory.path, {
    extra: ['-bios', bios],
    warn: (...words) => warnings.push(words),
  });
  t.true(emulator.loadResets);
  t.regex(JSON.stringify(warnings), /ROMs other than a BIOS/);
  // Once for what the load looks at, and once behind the reset.
  emulator.ram.writeFile(0, source.ram);
  await emulator.loadDeviceState(source.state);
  emulator.ram.writeFile(0, source.ram);
  const { memory } = readCounters(emulator);
  await emulator.resume();
  await until('A step of the guest', () => readCounters(emulator).memory !== memory);
});

serial('a BIOS from a folder of its own is the one that comes along', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const own = join(directory.path, 'own');
  mkdirSync(own);
  // What QEMU takes for its BIOS, and no folder of the packages has.
  const bios = readFileSync(DEBIAN_BIOS).subarray(128 * 1024);
  writeFileSync(join(own, 'bios-256k.bin'), bios);
  const emulator = await launchIncoming(directory.path, { extra: ['-L', own] });
  t.false(emulator.loadResets);
});

async function launchIncoming(
  path: string,
  options: { readonly extra: readonly string[]; readonly warn?: Logger['warn'] },
): Promise<Emulator> {
  const machine = testMachine(path);
  const emulator = await launchQemu({
    definition: { ...machine, extraArguments: [...machine.extraArguments, ...options.extra] },
    ...{ diskSockets: [], nicFds: [], runtimeDir: path },
    ...{ ramMapping: 'shared', startPaused: true, incoming: true },
    log: { ...silentLog, warn: options.warn ?? silentLog.warn },
  });
  addCleanUp(() => emulator.kill());
  return emulator;
}
