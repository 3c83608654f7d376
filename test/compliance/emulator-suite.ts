/** What every Emulator must do; run on QEMU and on the fake by emulator.test.ts. */
import type { ExecutionContext, SerialFn } from 'ava';
import type { Emulator } from '../../src/emulator/index.js';
import { PAGE_SIZE_BYTES } from '../../src/lib/index.js';
import { readCounters, type Subject, type SubjectKind } from '../support/emulator-subjects.js';
import { differingPages, pagesOf, ramOf } from '../support/guest-pages.js';

const ROUNDS = 5;

export function registerEmulatorSuite(test: SerialFn, kind: SubjectKind): void {
  registerRunning(test, kind);
  registerTracking(test, kind);
  registerDeviceState(test, kind);
  registerPrivateRam(test, kind);
  registerEnd(test, kind);
  registerLeftRam(test, kind);
}

function registerRunning(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: a pause stops the guest and a resume lets it go on`, async (t) => {
    const { emulator, untilItRuns } = await running(kind);
    await emulator.pause();
    const before = ramOf(emulator);
    // Nothing to wait for: that nothing happens is the point. Two more round trips pass at least.
    await emulator.pause();
    await emulator.saveDeviceState();
    t.deepEqual(differingPages(before, ramOf(emulator)), []);
    const paused = readCounters(emulator);
    await emulator.resume();
    await untilItRuns();
    t.not(readCounters(emulator).memory, paused.memory);
  });

  test(`${kind.name}: a guest that is started paused does nothing until it is resumed`, async (t) => {
    const subject = await kind.launch({ ramMapping: 'shared', startPaused: true });
    t.deepEqual(readCounters(subject.emulator), { register: 0, memory: 0 });
    await subject.emulator.resume();
    await subject.untilItRuns();
    t.true(readCounters(subject.emulator).memory > 0);
  });

  test(`${kind.name}: commands sent without waiting are done in order`, async (t) => {
    const { emulator } = await running(kind);
    const paused = emulator.pause();
    const saved = emulator.saveDeviceState();
    await paused;
    t.true((await saved).length > 0);
  });
}

function registerTracking(test: SerialFn, kind: SubjectKind): void {
  for (const ramMapping of ['shared', 'private'] as const) {
    test(`${kind.name}: every page that differs was reported as written, ${ramMapping} RAM`, async (t) => {
      const { emulator, untilItRuns } = await running(kind, ramMapping);
      await emulator.pause();
      emulator.scanWritten();
      let before = ramOf(emulator);
      for (let round = 0; round < ROUNDS; round++) {
        await emulator.resume();
        await untilItRuns();
        // A scan while the guest runs takes part of the pages; the union must be complete.
        const live = emulator.scanWritten();
        await untilItRuns();
        await emulator.pause();
        const reported = pagesOf([...live, ...emulator.scanWritten()]);
        const after = ramOf(emulator);
        const differing = differingPages(before, after);
        t.true(differing.length > 0, 'the guest wrote something');
        t.deepEqual(
          differing.filter((page) => !reported.has(page)),
          [],
          'pages that were missed',
        );
        before = after;
      }
    });
  }

  test(`${kind.name}: a guest that stands writes nothing, and the agent's writes are not the guest's`, async (t) => {
    const { emulator } = await running(kind);
    await emulator.pause();
    await emulator.saveDeviceState();
    emulator.scanWritten();
    emulator.ram.writeFile(5 * PAGE_SIZE_BYTES, Buffer.alloc(PAGE_SIZE_BYTES, 7));
    t.deepEqual(emulator.scanWritten(), []);
    const page = Buffer.alloc(PAGE_SIZE_BYTES);
    emulator.ram.copyOut(5 * PAGE_SIZE_BYTES, page);
    t.true(page.equals(Buffer.alloc(PAGE_SIZE_BYTES, 7)), 'shared RAM shows what was written');
  });

  test(`${kind.name}: the data ranges hold all that is not zero`, async (t) => {
    for (const ramMapping of ['shared', 'private'] as const) {
      const { emulator } = await running(kind, ramMapping);
      await emulator.pause();
      const ram = ramOf(emulator);
      const held = pagesOf(emulator.ram.dataRanges());
      const nonZero = differingPages(Buffer.alloc(ram.length), ram);
      t.deepEqual(
        nonZero.filter((page) => !held.has(page)),
        [],
      );
    }
  });
}

function registerDeviceState(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: RAM and device state move from a running guest into another running one`, async (t) => {
    const a = await running(kind);
    const b = await running(kind);
    for (let round = 0; round < ROUNDS; round++) {
      await a.untilItRuns();
      await b.untilItRuns();
      await a.emulator.pause();
      const state = await a.emulator.saveDeviceState();
      const atPause = readCounters(a.emulator);
      const ram = ramOf(a.emulator);
      await a.emulator.resume();
      await b.emulator.pause();
      await b.emulator.loadDeviceState(state);
      // Shared RAM: written after the load, which resets devices and rewrites ROM areas.
      b.emulator.ram.writeFile(0, ram);
      t.deepEqual(readCounters(b.emulator), atPause);
      await b.emulator.resume();
      await b.untilItRuns();
      await assertConsistent(t, b.emulator, atPause.memory);
      await b.emulator.resume();
    }
  });

  test(`${kind.name}: a malformed device state is refused, and a good one still loads`, async (t) => {
    const { emulator, untilItRuns } = await running(kind);
    await emulator.pause();
    const state = await emulator.saveDeviceState();
    const ram = ramOf(emulator);
    const half = Buffer.concat([state.subarray(0, state.length >> 1), Buffer.alloc(1)]);
    await t.throwsAsync(emulator.loadDeviceState(half), { code: 'COLO_E_QEMU' });
    const noise = Buffer.from(state);
    noise.fill(0xa5, 12, state.length - 1);
    await t.throwsAsync(emulator.loadDeviceState(noise), { code: 'COLO_E_QEMU' });
    await t.throwsAsync(emulator.loadDeviceState(Buffer.alloc(0)));
    await emulator.loadDeviceState(state);
    emulator.ram.writeFile(0, ram);
    const atPause = readCounters(emulator);
    await emulator.resume();
    await untilItRuns();
    await assertConsistent(t, emulator, atPause.memory);
  });
}

function registerPrivateRam(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: dropping private pages shows the RAM file again`, async (t) => {
    const b = await running(kind, 'private');
    await b.emulator.pause();
    t.true(pagesOf(b.emulator.scanPrivate()).size > 0);
    b.emulator.ram.writeFile(0, Buffer.alloc(b.emulator.ram.sizeBytes, 0x11));
    t.not(readCounters(b.emulator).register, 0x11111111, "the guest's copies hide the file");
    await b.emulator.dropPrivate(b.emulator.scanPrivate());
    t.deepEqual(b.emulator.scanPrivate(), []);
    t.true(ramOf(b.emulator).equals(Buffer.alloc(b.emulator.ram.sizeBytes, 0x11)));
  });

  test(`${kind.name}: checkpoints into private RAM leave both guests equal, round after round`, async (t) => {
    const a = await running(kind);
    const b = await kind.launch({ ramMapping: 'private', startPaused: true });
    const timings: Record<string, number>[] = [];
    // Used again in each round: collecting such garbage would be measured.
    const ram = Buffer.alloc(a.emulator.ram.sizeBytes);
    const svmRam = Buffer.alloc(b.emulator.ram.sizeBytes);
    for (let round = 0; round < 2 * ROUNDS; round++) {
      const { state, pages, timing } = await takeCheckpoint(a.emulator, round === 0, ram);
      timings.push({ ...timing, ...(await applyCheckpoint(b.emulator, state, pages)) });
      b.emulator.ram.copyOut(0, svmRam);
      t.deepEqual(differingPages(svmRam, ram), [], `RAM differs in round ${round}`);
      const atPause = readCounters(b.emulator);
      await b.emulator.resume();
      await b.untilItRuns();
      await assertConsistent(t, b.emulator, atPause.memory);
      await b.emulator.resume();
      await a.untilItRuns();
    }
    if (process.env['COLO_TIMING'] !== undefined) t.log(JSON.stringify(medians(timings)));
  });

  test(`${kind.name}: a promoted guest is tracked, and hidden pages of its file can go`, async (t) => {
    const a = await running(kind);
    const b = await running(kind, 'private');
    await b.emulator.pause();
    const own = b.emulator.scanPrivate();
    b.emulator.scanWritten();
    t.deepEqual(b.emulator.scanPrivate(), own, 'tracking does not blur what is private');
    const before = ramOf(b.emulator);
    const half = b.emulator.ram.sizeBytes / 2;
    const released = [0, half].map((offset) => {
      return b.emulator.releaseHidden({ offset, length: half });
    });
    t.true((released[0] ?? 0) + (released[1] ?? 0) > 0);
    t.deepEqual(differingPages(before, ramOf(b.emulator)), []);
    t.is(a.emulator.releaseHidden({ offset: 0, length: half }), undefined, 'shared hides nothing');
    await b.emulator.resume();
    await b.untilItRuns();
    await b.emulator.pause();
    const reported = pagesOf(b.emulator.scanWritten());
    const missed = differingPages(before, ramOf(b.emulator)).filter((page) => !reported.has(page));
    t.deepEqual(missed, []);
  });
}

function registerEnd(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: a kill is final, idempotent and makes every later call fail`, async (t) => {
    const { emulator } = await running(kind, 'private');
    await Promise.all([emulator.kill(), emulator.kill()]);
    await emulator.kill();
    t.regex((await emulator.exited).reason, /kill/i);
    await t.throwsAsync(emulator.pause(), { code: 'COLO_E_QEMU' });
    await t.throwsAsync(emulator.saveDeviceState(), { code: 'COLO_E_QEMU' });
    t.throws(() => emulator.scanWritten(), { code: 'COLO_E_QEMU' });
    t.throws(() => emulator.scanPrivate(), { code: 'COLO_E_QEMU' });
    t.throws(() => emulator.ram.copyOut(0, Buffer.alloc(1)), { code: 'COLO_E_QEMU' });
    t.throws(() => emulator.ram.writeFile(0, Buffer.alloc(1)), { code: 'COLO_E_QEMU' });
  });
}

function registerLeftRam(test: SerialFn, kind: SubjectKind): void {
  for (const ramMapping of ['shared', 'private'] as const) {
    test(`${kind.name}: what a guest leaves is where the next RAM begins, ${ramMapping} RAM`, async (t) => {
      const { emulator } = await running(kind, ramMapping);
      await emulator.pause();
      const seen = ramOf(emulator);
      const leftRam = await emulator.endKeepingRam('guest');
      if (leftRam === undefined) throw new Error('Nothing was left');
      t.is(leftRam.sizeBytes, seen.length);
      t.regex((await emulator.exited).reason, /kill/i);
      await t.throwsAsync(emulator.pause(), { code: 'COLO_E_QEMU' });
      t.is(await emulator.endKeepingRam('guest'), undefined);

      const next = await kind.launch({ ramMapping: 'private', startPaused: true, leftRam });
      t.deepEqual(differingPages(seen, fileOf(next.emulator)), []);
    });
  }

  test(`${kind.name}: the RAM file of an SVM is left without what the SVM has written`, async (t) => {
    const { emulator } = await running(kind, 'private');
    const leftRam = await emulator.endKeepingRam('file');
    if (leftRam === undefined) throw new Error('Nothing was left');
    const next = await kind.launch({ ramMapping: 'private', startPaused: true, leftRam });
    t.deepEqual(differingPages(Buffer.alloc(leftRam.sizeBytes), fileOf(next.emulator)), []);
  });
}

function fileOf({ ram }: Emulator): Buffer {
  const bytes = Buffer.alloc(ram.sizeBytes);
  ram.readFile(0, bytes);
  return bytes;
}

/** A guest that has counted. */
async function running(
  kind: SubjectKind,
  ramMapping: 'shared' | 'private' = 'shared',
): Promise<Subject> {
  const subject = await kind.launch({ ramMapping, startPaused: false });
  await subject.untilItRuns();
  return subject;
}

/** Pauses and checks that registers and RAM are of one moment, later than `memoryBefore`. */
async function assertConsistent(
  t: ExecutionContext,
  emulator: Emulator,
  memoryBefore: number,
): Promise<void> {
  await emulator.pause();
  const { register, memory } = readCounters(emulator);
  t.true(
    register - memory === 0 || register - memory === 1,
    `registers ${register}, RAM ${memory}`,
  );
  t.true(memory > memoryBefore, `the guest went on from ${memoryBefore} to ${memory}`);
}

interface Checkpoint {
  readonly state: Buffer;
  readonly pages: readonly (readonly [number, Buffer])[];
  readonly timing: Record<string, number>;
}

/** What a primary does in a pause, and a copy of all of RAM into `ram` to compare with. */
async function takeCheckpoint(emulator: Emulator, full: boolean, ram: Buffer): Promise<Checkpoint> {
  const lap = stopwatch();
  await emulator.pause();
  lap('stop');
  const state = await emulator.saveDeviceState();
  lap('save');
  const written = emulator.scanWritten();
  lap('scan');
  const ranges = full ? emulator.ram.dataRanges() : written;
  const pages = ranges.map((range) => {
    const bytes = Buffer.alloc(range.length);
    emulator.ram.copyOut(range.offset, bytes);
    return [range.offset, bytes] as const;
  });
  lap('copy');
  emulator.ram.copyOut(0, ram);
  lap();
  await emulator.resume();
  return { state, pages, timing: lap('cont') };
}

async function applyCheckpoint(
  emulator: Emulator,
  state: Buffer,
  pages: Checkpoint['pages'],
): Promise<Record<string, number>> {
  const lap = stopwatch();
  await emulator.pause();
  lap('svmStop');
  const own = emulator.scanPrivate();
  lap('svmScan');
  for (const [offset, bytes] of pages) emulator.ram.writeFile(offset, bytes);
  lap('svmWrite');
  await emulator.dropPrivate(own);
  lap('svmDrop');
  await emulator.loadDeviceState(state);
  lap('svmLoad');
  await emulator.dropPrivate(emulator.scanPrivate());
  return lap('svmDropAgain');
}

/** Each call notes the milliseconds since the last one under a name, or none. */
function stopwatch(): (name?: string) => Record<string, number> {
  const laps: Record<string, number> = {};
  let last = performance.now();
  return (name) => {
    const now = performance.now();
    if (name !== undefined) laps[name] = now - last;
    last = now;
    return laps;
  };
}

function medians(timings: readonly Record<string, number>[]): Record<string, number> {
  const names = Object.keys(timings[0] ?? {});
  return Object.fromEntries(
    names.map((name) => {
      const sorted = timings.map((timing) => timing[name] ?? 0).sort((a, b) => a - b);
      return [name, Number((sorted[sorted.length >> 1] ?? 0).toFixed(2))];
    }),
  );
}
