import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { CompareTracker } from '../../src/emulator/dirty-tracker.js';
import {
  type DirtyTrackerKind,
  type Emulator,
  type GuestEvent,
  launchQemu,
  StagingArea,
} from '../../src/emulator/index.js';
import { uniteRanges } from '../../src/lib/index.js';
import { GuestPort, probeSoftDirty, probeUserfaultfd } from '../../src/linux/index.js';
import { POWER_OFF_OFFSET } from '../support/boot-sector-guest.js';
import { cleanUpAfterEach } from '../support/clean-ups.js';
import {
  fakeSubject,
  isAlive,
  makeTestDirectory,
  qemuSubject,
  readCounters,
  reasonAgainstKvm,
  silentLog,
  testMachine,
  until,
} from '../support/emulator-subjects.js';
import { registerEmulatorSuite } from './emulator-suite.js';

const addCleanUp = cleanUpAfterEach();

// One guest after the other: they count as fast as a core can.
const { serial } = test;

registerEmulatorSuite(serial, fakeSubject());
registerEmulatorSuite(serial, qemuSubject('tcg', addCleanUp));
const noKvm = reasonAgainstKvm();
if (noKvm === undefined) registerEmulatorSuite(serial, qemuSubject('kvm', addCleanUp));
else serial(`QEMU under KVM is not tested here: ${noKvm}`, (t) => t.pass());

const tcg = qemuSubject('tcg', addCleanUp);
/** Far more than whoever looks at a dead process keeps its memory for. */
const MEMORY_GONE_MS = 10_000;

for (const tracker of ['userfaultfd', 'soft-dirty', 'compare'] as const) {
  const reason = reasonAgainstTracker(tracker);
  if (reason !== undefined) {
    serial(`the tracker ${tracker} can not be tested here: ${reason}`, (t) => t.pass());
    continue;
  }
  serial(`the tracker ${tracker} misses no page that comparing finds`, async (t) => {
    const { emulator, untilItRuns } = await tcg.launch({
      ...{ ramMapping: 'shared', startPaused: false, tracker },
    });
    t.is(emulator.description.dirtyTracker, tracker);
    const reference = new CompareTracker(emulator.ram);
    await emulator.pause();
    reference.takeWritten();
    emulator.scanWritten();
    t.deepEqual(emulator.scanWritten(), [], 'nothing is reported twice');
    for (let round = 0; round < 5; round++) {
      await emulator.resume();
      await untilItRuns();
      const live = emulator.scanWritten();
      if (tracker !== 'userfaultfd') t.deepEqual(live, [], 'the others take a guest that stands');
      await untilItRuns();
      await emulator.pause();
      const found = uniteRanges(live, emulator.scanWritten());
      const expected = reference.takeWritten();
      t.true(expected.length > 0);
      t.deepEqual(uniteRanges(found, expected), found);
    }
  });
}

serial('a machine with two vCPUs, a disk and a NIC moves into another one', async (t) => {
  const a = await launchConnected('shared');
  const b = await launchConnected('private');
  await a.pause();
  const state = await a.saveDeviceState();
  await b.pause();
  for (const range of a.ram.dataRanges()) {
    const bytes = Buffer.alloc(range.length);
    a.ram.copyOut(range.offset, bytes);
    b.ram.writeFile(range.offset, bytes);
  }
  await b.dropPrivate(b.scanPrivate());
  await b.loadDeviceState(state);
  await b.dropPrivate(b.scanPrivate());
  const before = readCounters(b);
  t.deepEqual(before, readCounters(a));
  await b.resume();
  await b.announce();
  await until('The guest going on', () => readCounters(b).memory !== before.memory);
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

serial('a guest that was powered off is started again by a reset', async (t) => {
  const { emulator, untilItRuns } = await tcg.launch({ ramMapping: 'private', startPaused: false });
  await untilItRuns();
  const off = new Promise<void>((resolve) => {
    emulator.onGuestEvent(({ kind }) => {
      if (kind === 'shutdown') resolve();
    });
  });
  await emulator.pause();
  // The guest has its own copy of that page, which hides the file's.
  await emulator.dropPrivate(emulator.scanPrivate().filter(({ offset }) => offset === 0));
  emulator.ram.writeFile(POWER_OFF_OFFSET, Buffer.of(1));
  await emulator.resume();
  await off;
  await t.throwsAsync(emulator.resume(), { code: 'COLO_E_QEMU' });
  await emulator.reset();
  await emulator.resume();
  t.pass();
});

serial('shared RAM is locked against reclaim, private RAM need not be', async (t) => {
  const locked = async (ramMapping: 'shared' | 'private'): Promise<number> => {
    const { emulator } = await tcg.launch({ ramMapping, startPaused: true });
    const status = readFileSync(`/proc/${emulator.description.pid}/status`, 'utf8');
    return Number(/^VmLck:\s+(\d+) kB/m.exec(status)?.[1]) * 1024 - emulator.ram.sizeBytes;
  };
  t.is(await locked('shared'), 0);
  t.true((await locked('private')) < 0);
});

serial('a kill leaves no process, no file and no descriptor behind', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const descriptors = readdirSync('/proc/self/fd').length;
  const emulator = await launchQemu({
    definition: testMachine(directory.path),
    ramMapping: 'private',
    diskSockets: [],
    nicFds: [],
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

serial('QEMU that is stopped is told as hung, and lives on if it is let', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const emulator = await launchQemu({
    definition: testMachine(directory.path),
    ramMapping: 'shared',
    diskSockets: [],
    nicFds: [],
    runtimeDir: directory.path,
    startPaused: true,
    hungAfterUs: 300_000,
    log: silentLog,
  });
  addCleanUp(() => emulator.kill());
  const { pid } = emulator.description;
  const hung = (): Promise<string> =>
    new Promise((resolve) => {
      emulator.onGuestEvent((event) => {
        if (event.kind === 'hung') resolve(event.reason);
      });
    });
  const first = hung();
  process.kill(pid, 'SIGSTOP');
  t.regex(await first, /^No answer on QMP for \d+ ms$/);
  process.kill(pid, 'SIGCONT');
  await emulator.pause();
  const again = hung();
  process.kill(pid, 'SIGSTOP');
  await again;
  emulator.abort();
  t.regex((await emulator.exited).reason, /SIGKILL/);
});

/** Whoever looks at a process, such as a monitor, keeps its memory a moment longer. */
function untilItFails(scan: () => void): void {
  const untilMs = performance.now() + MEMORY_GONE_MS;
  while (performance.now() < untilMs) {
    try {
      scan();
    } catch {
      return;
    }
  }
}

serial('a scan of a QEMU that has just died fails instead of finding nothing', async (t) => {
  for (const ramMapping of ['shared', 'private'] as const) {
    const { emulator, untilItRuns } = await tcg.launch({ ramMapping, startPaused: false });
    await untilItRuns();
    process.kill(emulator.description.pid, 'SIGKILL');
    // No turn of the event loop in between: the end is not known here yet. The memory lives until
    // the last thread has ended.
    const tasks = `/proc/${emulator.description.pid}/task`;
    while (isAlive(emulator.description.pid) || readdirSync(tasks).length > 1);
    untilItFails(() => emulator.scanWritten());
    t.throws(() => emulator.scanWritten(), { code: 'COLO_E_QEMU' });
    t.throws(() => emulator.scanPrivate(), { code: 'COLO_E_QEMU' });
    if (ramMapping === 'private') {
      t.throws(() => emulator.ram.copyOut(0, Buffer.alloc(1)), { code: 'COLO_E_QEMU' });
    }
  }
});

serial('a launch that QEMU refuses rejects with its words', async (t) => {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const definition = {
    ...testMachine(directory.path),
    extraArguments: ['-device', 'no-such-device'],
  };
  const base = { diskSockets: [], nicFds: [], runtimeDir: directory.path, log: silentLog };
  const options = { ...base, ramMapping: 'shared', startPaused: true } as const;
  await t.throwsAsync(launchQemu({ ...options, definition }), {
    code: 'COLO_E_QEMU',
    message: /no-such-device/,
  });
  await t.throwsAsync(launchQemu({ ...options, definition: { ...definition, machineType: 'x' } }), {
    code: 'COLO_E_MACHINE_TYPE',
  });
  await t.throwsAsync(
    launchQemu({ ...options, definition, nicFds: [{ frames: -1, offload: -1 }] }),
    {
      code: 'COLO_E_SOCKETS',
    },
  );
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
      ...{ diskSockets: [], nicFds: [], runtimeDir: directory.path, log: silentLog },
      ...{ ramMapping: 'shared', startPaused: true, qemuBinary, commandDeadlineMs: 3000 },
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
  t.notThrows(() => staging.close());
});

function reasonAgainstTracker(tracker: DirtyTrackerKind): string | undefined {
  switch (tracker) {
    case 'userfaultfd':
      return probeUserfaultfd();
    case 'soft-dirty':
      return probeSoftDirty();
    case 'compare':
      return undefined;
  }
}

/** The boot-sector guest with an NBD disk and a NIC, once it counts. */
async function launchConnected(ramMapping: 'shared' | 'private'): Promise<Emulator> {
  const directory = makeTestDirectory();
  addCleanUp(async () => directory.remove());
  const image = join(directory.path, 'disk.raw');
  const diskSocket = join(directory.path, 'disk.sock');
  writeFileSync(image, Buffer.alloc(2 ** 20));
  const nbd = spawn('qemu-nbd', ['-f', 'raw', '-x', 'root', '-k', diskSocket, '-t', image]);
  addCleanUp(async () => {
    nbd.kill('SIGKILL');
  });
  await until('The NBD socket', () => existsSync(diskSocket));
  const port = new GuestPort('the test');
  addCleanUp(async () => port.close());
  const emulator = await launchQemu({
    definition: {
      ...testMachine(directory.path),
      vcpus: 2,
      disks: [{ name: 'root', sizeBytes: 2 ** 20, readOnly: false }],
      nics: [{ name: 'lan', mac: '52:54:00:12:34:56' }],
    },
    ...{ ramMapping, startPaused: false, log: silentLog },
    ...{ diskSockets: [diskSocket], nicFds: [port.qemuFds], runtimeDir: directory.path },
  });
  addCleanUp(() => emulator.kill());
  await until('The first count', () => readCounters(emulator).memory > 0);
  return emulator;
}
