import { readFileSync } from 'node:fs';
import test from 'ava';
import { probeUserfaultfd } from '../../src/linux/index.js';
import { cleanUpAfterEach } from '../support/clean-ups.js';
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

const addCleanUp = cleanUpAfterEach();

// One guest after the other: they count as fast as a core can.
const { serial } = test;

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
    const { pid } = emulator.description;
    /** Of the guest per second, and of the processor that QEMU had in that time. */
    const measure = async (percent: number): Promise<{ counts: number; share: number }> => {
      emulator.setThrottle(percent);
      const [began, count, used] = [performance.now(), readCounters(emulator).memory, cpuMs(pid)];
      const enough = percent === 0 ? 500 : 2000;
      await until('The end of a measurement', () => performance.now() - began > enough);
      const ms = performance.now() - began;
      const counts = Math.round(((readCounters(emulator).memory - count) * 1000) / ms);
      return { counts, share: (cpuMs(pid) - used) / ms };
    };
    const measured = [await measure(0), await measure(50), await measure(90)];
    for (const { counts, share } of measured) t.log(`${counts} counts/s, ${share.toFixed(2)} CPU`);
    const most = measured[2];
    t.true((most?.counts ?? 0) > 0, 'it runs');
    // However busy this host is: that makes it less. Counts would be compared with those of a free
    // guest, which a busy host slows down, too.
    t.true((most?.share ?? 1) < 0.3, 'it runs for a tenth of the time, timers being late');
    // A pause does not wait for the throttle, and is one.
    emulator.setThrottle(99);
    await untilItRuns();
    await emulator.pause();
    t.notRegex(readFileSync(`/proc/${pid}/status`, 'utf8'), /^State:\s+T/m);
    const paused = readCounters(emulator);
    await emulator.saveDeviceState();
    emulator.scanWritten();
    t.deepEqual(readCounters(emulator), paused);
    await emulator.resume();
    await untilItRuns();
    const stopped = (): boolean => {
      return /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    };
    await until('A stop by the throttle', stopped);
    t.true(emulator.scanWritten().length > 0, 'scans need no QEMU that runs');
    await emulator.kill();
    t.false(isAlive(emulator.description.pid));
  });
}

/** Processor time of a process so far, user and system (proc(5): fields 14 and 15, 10 ms each). */
function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
