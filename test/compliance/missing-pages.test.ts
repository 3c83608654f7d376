import { readFileSync } from 'node:fs';
import test from 'ava';
import { probeUserfaultfd } from '../../src/linux/index.js';
import {
  fakeSubject,
  isAlive,
  qemuSubject,
  readCounters,
  reasonAgainstKvm,
  type SubjectKind,
  until,
} from '../support/emulator-subjects.js';
import { registerMissingPagesSuite } from './missing-pages-suite.js';

const cleanUps: (() => Promise<void>)[] = [];
const addCleanUp = (cleanUp: () => Promise<void>): void => {
  cleanUps.push(cleanUp);
};

// One guest after the other: they count as fast as a core can.
const { serial } = test;

test.afterEach.always(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

registerMissingPagesSuite(serial, fakeSubject());
const noTracking = probeUserfaultfd();
if (noTracking === undefined) registerOnQemu('tcg');
else serial(`QEMU is not tested here: ${noTracking}`, (t) => t.pass());
const noKvm = noTracking ?? reasonAgainstKvm();
if (noKvm === undefined) registerOnQemu('kvm');
else serial(`QEMU under KVM is not tested here: ${noKvm}`, (t) => t.pass());

function registerOnQemu(accelerator: 'tcg' | 'kvm'): void {
  const kind = qemuSubject(accelerator, addCleanUp);
  registerMissingPagesSuite(serial, kind);
  registerDeath(kind);
  registerThrottle(kind);
}

function registerDeath(kind: SubjectKind): void {
  serial(`${kind.name}: QEMU may die while its threads wait for pages`, async (t) => {
    const { emulator } = await kind.launch({
      ...{ ramMapping: 'shared', startPaused: true, missingPages: true },
    });
    const asked = new Promise<void>((resolve) => {
      emulator.missingPages?.onFault(() => resolve());
    });
    emulator.missingPages?.start([{ offset: 0, length: emulator.ram.sizeBytes }]);
    await emulator.resume();
    await asked;
    process.kill(emulator.description.pid, 'SIGKILL');
    t.regex((await emulator.exited).reason, /SIGKILL/);
    t.false(isAlive(emulator.description.pid));
    t.throws(() => emulator.missingPages?.place(0, Buffer.alloc(4096)), { code: 'COLO_E_QEMU' });
  });
}

function registerThrottle(kind: SubjectKind): void {
  serial(`${kind.name}: a throttled guest runs for a part of the time`, async (t) => {
    const { emulator, untilItRuns } = await kind.launch({
      ...{ ramMapping: 'shared', startPaused: false },
    });
    await untilItRuns();
    /** Counts per second of processor time that QEMU could have had. */
    const rate = async (percent: number): Promise<number> => {
      emulator.setThrottle(percent);
      const [began, before] = [performance.now(), readCounters(emulator).memory];
      const enough = percent === 0 ? 500 : 2000;
      await until('The end of a measurement', () => performance.now() - began > enough);
      return ((readCounters(emulator).memory - before) * 1000) / (performance.now() - began);
    };
    const rates = [await rate(0), await rate(50), await rate(90)];
    t.log(`counts/s at 0, 50, 90 %: ${rates.map(Math.round).join(', ')}`);
    const [free = 0, , most = 0] = rates;
    t.true(most > 0, 'it runs');
    t.true(most < free / 2, 'this host may be busy, but not that busy');
    // A pause does not wait for the throttle, and is one.
    emulator.setThrottle(99);
    await untilItRuns();
    await emulator.pause();
    t.notRegex(readFileSync(`/proc/${emulator.description.pid}/status`, 'utf8'), /^State:\s+T/m);
    const paused = readCounters(emulator);
    await emulator.saveDeviceState();
    emulator.scanWritten();
    t.deepEqual(readCounters(emulator), paused);
    await emulator.resume();
    await untilItRuns();
    const stopped = (): boolean => {
      return /^State:\s+T/m.test(readFileSync(`/proc/${emulator.description.pid}/status`, 'utf8'));
    };
    await until('A stop by the throttle', stopped);
    t.true(emulator.scanWritten().length > 0, 'scans need no QEMU that runs');
    await emulator.kill();
    t.false(isAlive(emulator.description.pid));
  });
}
