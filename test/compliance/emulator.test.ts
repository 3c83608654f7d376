import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { type GuestEvent, launchQemu, StagingArea } from '../../src/emulator/index.js';
import { POWER_OFF_OFFSET } from '../support/boot-sector-guest.js';
import {
  fakeSubject,
  isAlive,
  makeTestDirectory,
  qemuSubject,
  reasonAgainstKvm,
  silentLog,
  testMachine,
  until,
} from '../support/emulator-subjects.js';
import { registerEmulatorSuite } from './emulator-suite.js';

const cleanUps: (() => Promise<void>)[] = [];
const addCleanUp = (cleanUp: () => Promise<void>): void => {
  cleanUps.push(cleanUp);
};

// One guest after the other: they count as fast as a core can.
const { serial } = test;

test.afterEach.always(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

registerEmulatorSuite(serial, fakeSubject());
registerEmulatorSuite(serial, qemuSubject('tcg', addCleanUp));
const noKvm = reasonAgainstKvm();
if (noKvm === undefined) registerEmulatorSuite(serial, qemuSubject('kvm', addCleanUp));
else serial(`QEMU under KVM is not tested here: ${noKvm}`, (t) => t.pass());

const tcg = qemuSubject('tcg', addCleanUp);

serial('compare finds what userfaultfd finds, and leaves out what did not change', async (t) => {
  const { emulator, untilItRuns } = await tcg.launch({
    ramMapping: 'shared',
    startPaused: false,
    tracker: 'compare',
  });
  t.is(emulator.description.dirtyTracker, 'compare');
  await untilItRuns();
  t.deepEqual(emulator.scanWritten(), [], 'comparing takes a guest that stands');
  await emulator.pause();
  t.true(emulator.scanWritten().length > 0);
  t.deepEqual(emulator.scanWritten(), []);
  await emulator.resume();
  await untilItRuns();
  await emulator.pause();
  t.true(
    emulator.scanWritten().some(({ offset }) => offset === 0),
    'the page of the counters',
  );
});

serial(
  'a guest that was powered off stays, tells so, and comes back with a device state',
  async (t) => {
    const { emulator, untilItRuns } = await tcg.launch({
      ramMapping: 'shared',
      startPaused: false,
    });
    await untilItRuns();
    await emulator.pause();
    const state = await emulator.saveDeviceState();
    const ram = Buffer.alloc(emulator.ram.sizeBytes);
    emulator.ram.copyOut(0, ram);
    const off = new Promise<GuestEvent>((resolve) => {
      emulator.onGuestEvent((event) => {
        if (event.kind === 'shutdown') resolve(event);
      });
    });
    emulator.ram.writeFile(POWER_OFF_OFFSET, Buffer.of(1));
    await emulator.resume();
    t.deepEqual(await off, { kind: 'shutdown', byGuest: true, reason: 'guest-shutdown' });
    await emulator.loadDeviceState(state);
    emulator.ram.writeFile(0, ram);
    await emulator.resume();
    await untilItRuns();
    t.pass();
  },
);

serial('a kill leaves no process, no file and no descriptor behind', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const descriptors = readdirSync('/proc/self/fd').length;
  const emulator = await launchQemu({
    definition: testMachine(directory.path),
    ramMapping: 'private',
    diskSockets: [],
    nicSockets: [],
    runtimeDir: directory.path,
    startPaused: true,
    log: silentLog,
  });
  addCleanUp(() => emulator.kill());
  await emulator.kill();
  t.false(isAlive(emulator.description.pid));
  t.deepEqual(readdirSync(directory.path).sort(), ['boot.raw', 'console.log']);
  await until('Closing of all descriptors', () => {
    return readdirSync('/proc/self/fd').length <= descriptors;
  });
  t.pass();
});

serial('QEMU does not outlive an agent that is killed', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const main = fileURLToPath(new URL('../support/launch-and-wait.js', import.meta.url));
  const agent = spawn(process.execPath, [main, directory.path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  addCleanUp(async () => {
    agent.kill('SIGKILL');
  });
  const [output] = (await once(agent.stdout, 'data')) as [Buffer];
  const pid = Number(output.toString());
  t.true(isAlive(pid));
  agent.kill('SIGKILL');
  await until('The end of QEMU', () => !isAlive(pid));
  t.pass();
});

serial('QEMU that dies is noticed, and what it said last is the reason', async (t) => {
  const { emulator, untilItRuns } = await tcg.launch({ ramMapping: 'shared', startPaused: false });
  await untilItRuns();
  const answer = emulator.pause();
  process.kill(emulator.description.pid, 'SIGSEGV');
  await t.notThrowsAsync(emulator.exited);
  t.regex((await emulator.exited).reason, /SIGSEGV/);
  await answer.catch(() => undefined);
  await t.throwsAsync(emulator.resume(), { code: 'COLO_E_QEMU' });
});

serial('a launch that QEMU refuses rejects with its words', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const definition = {
    ...testMachine(directory.path),
    extraArguments: ['-device', 'no-such-device'],
  };
  const base = { diskSockets: [], nicSockets: [], runtimeDir: directory.path, log: silentLog };
  const options = { ...base, ramMapping: 'shared', startPaused: true } as const;
  await t.throwsAsync(launchQemu({ ...options, definition }), {
    code: 'COLO_E_QEMU',
    message: /no-such-device/,
  });
  await t.throwsAsync(launchQemu({ ...options, definition: { ...definition, machineType: 'x' } }), {
    code: 'COLO_E_MACHINE_TYPE',
  });
  await t.throwsAsync(launchQemu({ ...options, definition, nicSockets: ['/none'] }), {
    code: 'COLO_E_SOCKETS',
  });
  await t.throwsAsync(launchQemu({ ...options, definition, qemuBinary: '/none' }), {
    code: 'COLO_E_NO_QEMU',
  });
});

serial('a QEMU that starts and keeps silent is killed at the deadline', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const qemuBinary = join(directory.path, 'silent-qemu');
  const pidFile = join(directory.path, 'pid');
  writeFileSync(
    qemuBinary,
    `#!/bin/sh\nif [ "$1" = -machine ]; then echo pc; exit; fi\necho $$ > ${pidFile}\nread line <&7\n`,
  );
  chmodSync(qemuBinary, 0o755);
  await t.throwsAsync(
    launchQemu({
      definition: testMachine(directory.path),
      ...{ diskSockets: [], nicSockets: [], runtimeDir: directory.path, log: silentLog },
      ...{ ramMapping: 'shared', startPaused: true, qemuBinary, commandDeadlineMs: 500 },
    }),
    { code: 'COLO_E_QEMU', message: /did not greet/ },
  );
  t.false(isAlive(Number(readFileSync(pidFile, 'utf8'))));
});

serial('a staging area keeps what was written until it is discarded', (t) => {
  const staging = new StagingArea(64 * 4096);
  staging.write(4096, Buffer.from('abc'));
  t.is(staging.view(4096, 3)?.toString(), 'abc');
  staging.discard();
  t.deepEqual([...(staging.view(4096, 3) ?? [])], [0, 0, 0]);
  staging.close();
});
