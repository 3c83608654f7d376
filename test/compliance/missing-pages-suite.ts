/** What `Emulator.missingPages` and a postcopy's source must do; run on QEMU and on the fake. */
import type { ExecutionContext, SerialFn } from 'ava';
import type { Emulator, MissingPages } from '../../src/emulator/index.js';
import { PAGE_SIZE_BYTES, type PageRange } from '../../src/lib/index.js';
import {
  readCounters,
  type Subject,
  type SubjectKind,
  until,
} from '../support/emulator-subjects.js';
import { differingPages, pagesOf, ramOf } from '../support/guest-pages.js';

/** Pages per background batch: small, so that the guest gets to many pages first. */
const BATCH_PAGES = 4;

export function registerMissingPagesSuite(test: SerialFn, kind: SubjectKind): void {
  registerMove(test, kind);
  registerServing(test, kind);
  registerEndOfPostcopy(test, kind);
  registerSource(test, kind);
}

function registerMove(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: a guest runs at once without any of its RAM, which comes on demand and besides`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    serveFrom(source, missing);
    missing.start(source.ram.dataRanges());
    const all = missing.missingCount;
    await b.emulator.loadDeviceState(state);
    takeBackLoad(source, b.emulator, missing);
    await b.emulator.resume();
    await b.untilItRuns();
    t.true(missing.missingCount < all, 'some pages were asked for');
    t.true(missing.missingCount > 0, 'others were not yet');
    const written = await pushRest(source, missing, b);
    await b.untilItRuns();
    await b.emulator.pause();
    await missing.finish();
    await assertMoved(t, { source, b, written });
    const { faults, p50Us, maxUs, blockedUs } = missing.figures();
    t.true(faults > 0);
    t.true(p50Us <= maxUs && (blockedUs[0] ?? 0) <= faults * maxUs);
    if (process.env['COLO_TIMING'] !== undefined) t.log(JSON.stringify(missing.figures()));
    await assertTracked(t, b);
  });

  test(`${kind.name}: pages sent before the switchover are not asked for, those too old are`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    const ranges = source.ram.dataRanges();
    const stale = Buffer.alloc(PAGE_SIZE_BYTES, 0xee);
    const [early, late] = splitPages(ranges);
    for (const offset of early) b.emulator.ram.writeFile(offset, pageOf(source, offset));
    for (const offset of late) b.emulator.ram.writeFile(offset, stale);
    const asked = serveFrom(source, missing);
    missing.start(late.map(toRange));
    t.is(missing.missingCount, late.length);
    await b.emulator.loadDeviceState(state);
    takeBackLoad(source, b.emulator, missing);
    await b.emulator.resume();
    await b.untilItRuns();
    const written = await pushRest(source, missing, b);
    await assertMoved(t, { source, b, written });
    t.deepEqual(
      [...asked.keys()].filter((offset) => !late.includes(offset)),
      [],
    );
    await missing.finish();
  });
}

function registerServing(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: a page is asked for once, waited for, and only placed while it is missing`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    const faults: { offset: number; threadId: number }[] = [];
    serveFrom(source, missing);
    missing.start(source.ram.dataRanges());
    await b.emulator.loadDeviceState(state);
    takeBackLoad(source, b.emulator, missing);
    missing.onFault((fault) => faults.push(fault));
    await b.emulator.resume();
    const waited = await untilWaiting(b, missing);
    t.deepEqual(
      faults.map((fault) => fault.offset),
      [waited],
    );
    t.true(missing.isMissing(waited));
    t.true(missing.missingRanges().some((range) => holds(range, waited)));
    const before = missing.missingCount;
    const count = readCounters(b.emulator);
    t.is(missing.place(waited, pageOf(source, waited)), PAGE_SIZE_BYTES);
    t.false(missing.isMissing(waited));
    t.is(missing.missingCount, before - 1);
    await until('The next page', () => stepped(b) && faults.length > 1);
    const poison = Buffer.alloc(PAGE_SIZE_BYTES, 0x99);
    t.is(missing.place(waited, poison), 0, 'it is there, whatever else is sent');
    missing.placeZero({ offset: waited, length: PAGE_SIZE_BYTES });
    t.not(pageOf(b.emulator, waited)[0], 0x99);
    t.true(readCounters(b.emulator).memory >= count.memory);
    for (const { threadId } of faults) t.true(missing.vcpuThreads.includes(threadId));
    // A demand that got lost is told again.
    t.deepEqual(missing.waitedFor(), [faults.at(-1)?.offset ?? -1]);
    for (const offset of missing.waitedFor()) missing.place(offset, pageOf(source, offset));
    serveFrom(source, missing);
    const written = await pushRest(source, missing, b);
    await b.untilItRuns();
    await assertMoved(t, { source, b, written });
  });

  test(`${kind.name}: QEMU waits for pages itself while it loads devices`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    const faults: number[] = [];
    missing.onFault(({ offset }) => faults.push(offset));
    missing.start([{ offset: 0, length: source.ram.sizeBytes }]);
    const loaded = b.emulator.loadDeviceState(state);
    let placed = 0;
    await Promise.race([
      loaded,
      until('The end of the load', () => {
        for (; placed < faults.length; placed++) {
          const offset = faults[placed] ?? 0;
          missing.place(offset, pageOf(source, offset));
        }
        return false;
      }),
    ]);
    t.true(placed > 0);
    await b.emulator.saveDeviceState();
  });

  test(`${kind.name}: pages that are zero are neither sent nor asked for`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    const asked = serveFrom(source, missing);
    const [first, second] = splitPages(source.ram.dataRanges());
    missing.start([...first, ...second].sort((x, y) => x - y).map(toRange));
    await b.emulator.loadDeviceState(state);
    takeBackLoad(source, b.emulator, missing);
    // Not the guest's code and counters, in the first pages.
    const zeroes = first.filter((offset) => offset >= 0x20 * PAGE_SIZE_BYTES);
    for (const offset of zeroes) missing.placeZero(toRange(offset));
    t.false(zeroes.some((offset) => missing.isMissing(offset)));
    asked.clear();
    await b.emulator.resume();
    await b.untilItRuns();
    t.deepEqual(
      [...asked.keys()].filter((offset) => zeroes.includes(offset)),
      [],
    );
    await pushRest(source, missing, b);
    await b.emulator.pause();
    const wrong = zeroes.filter((offset) => {
      // The guest counts in each page's beginning; the fake somewhere in it.
      return pageOf(b.emulator, offset).filter((byte) => byte !== 0).length > PAGE_SIZE_BYTES / 4;
    });
    t.deepEqual(wrong, []);
    await missing.finish();
  });
}

function registerEndOfPostcopy(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: nothing ends while a page is missing, and afterwards nobody is asked`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    serveFrom(source, missing);
    missing.start(source.ram.dataRanges());
    await t.throwsAsync(missing.finish(), { code: 'COLO_E_BUG' });
    t.throws(() => missing.start([]), { code: 'COLO_E_BUG' });
    await b.emulator.loadDeviceState(state);
    takeBackLoad(source, b.emulator, missing);
    // As if all that the guest counts in were zeroes: no page of it exists when nobody serves.
    for (const range of missing.missingRanges()) {
      const from = Math.max(range.offset, 0x20 * PAGE_SIZE_BYTES);
      const length = range.offset + range.length - from;
      if (length > 0) missing.placeZero({ offset: from, length });
    }
    await pushRest(source, missing, b);
    missing.onFault(() => t.fail('nobody is asked'));
    await missing.finish();
    t.is(missing.place(0, Buffer.alloc(PAGE_SIZE_BYTES, 1)), 0, 'what comes late is left alone');
    t.throws(() => missing.discard([toRange(0)]), { code: 'COLO_E_BUG' });
    await b.emulator.resume();
    await b.untilItRuns();
    await assertTracked(t, b);
    t.not(b.emulator.ram.view(0, PAGE_SIZE_BYTES), undefined);
    b.emulator.ram.writeFile(PAGE_SIZE_BYTES, Buffer.alloc(PAGE_SIZE_BYTES));
  });

  test(`${kind.name}: a postcopy that ends while the guest runs misses no write`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    serveFrom(source, missing);
    missing.start(source.ram.dataRanges());
    await b.emulator.loadDeviceState(state);
    takeBackLoad(source, b.emulator, missing);
    await b.emulator.resume();
    const written = await pushRest(source, missing, b);
    await b.untilItRuns();
    await missing.finish();
    await b.untilItRuns();
    await b.emulator.pause();
    const found = pagesOf([...written, ...b.emulator.scanWritten()]);
    const differing = differingPages(ramOf(source), ramOf(b.emulator));
    t.true(differing.length > 0);
    t.deepEqual(
      differing.filter((page) => !found.has(page)),
      [],
    );
    await b.emulator.resume();
    await b.untilItRuns();
    await assertTracked(t, b);
  });

  test(`${kind.name}: a kill while somebody waits for a page releases everything`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    serveFrom(source, missing);
    missing.start(source.ram.dataRanges());
    await b.emulator.loadDeviceState(state);
    takeBackLoad(source, b.emulator, missing);
    missing.onFault(() => undefined);
    await b.emulator.resume();
    const waited = await untilWaiting(b, missing);
    await b.emulator.kill();
    t.regex((await b.emulator.exited).reason, /kill/i);
    t.throws(() => missing.place(waited, pageOf(source, waited)), { code: 'COLO_E_QEMU' });
    await t.throwsAsync(missing.finish(), { code: 'COLO_E_QEMU' });
  });

  test(`${kind.name}: a load that waits for a page fails with a kill`, async (t) => {
    const { source, b, missing, state } = await switchOver(kind);
    const asked = new Promise<void>((resolve) => missing.onFault(() => resolve()));
    missing.start([{ offset: 0, length: source.ram.sizeBytes }]);
    const loaded = b.emulator.loadDeviceState(state);
    await asked;
    await Promise.all([b.emulator.kill(), t.throwsAsync(loaded, { code: 'COLO_E_QEMU' })]);
  });
}

function registerSource(test: SerialFn, kind: SubjectKind): void {
  test(`${kind.name}: a source sends in rounds, stands as page server, and may go on after all`, async (t) => {
    const a = await kind.launch({ ramMapping: 'shared', startPaused: false });
    await a.untilItRuns();
    const { emulator } = a;
    emulator.scanWritten();
    const copy = Buffer.alloc(emulator.ram.sizeBytes);
    let ranges = emulator.ram.dataRanges();
    for (let round = 0; round < 3; round++) {
      for (const range of ranges) copyRange(emulator, range, copy);
      await a.untilItRuns();
      ranges = emulator.scanWritten();
    }
    await emulator.pause();
    for (const range of [...ranges, ...emulator.scanWritten()]) copyRange(emulator, range, copy);
    await emulator.saveDeviceState();
    const atPause = readCounters(emulator);
    t.deepEqual(differingPages(copy, ramOf(emulator)), [], 'the rounds and the last scan are all');
    await emulator.resume();
    await a.untilItRuns();
    t.true(readCounters(emulator).memory > atPause.memory);
  });

  for (const ramMapping of ['shared', 'private'] as const) {
    test(`${kind.name}: a source whose pages were released gives them back and does not go on, ${ramMapping} RAM`, async (t) => {
      const a = await kind.launch({ ramMapping, startPaused: false });
      await a.untilItRuns();
      await a.emulator.pause();
      const before = ramOf(a.emulator);
      const [released, kept] = splitPages(a.emulator.ram.dataRanges());
      await a.emulator.releasePages(released.map(toRange));
      for (const offset of kept) {
        const expected = before.subarray(offset, offset + PAGE_SIZE_BYTES);
        t.true(pageOf(a.emulator, offset).equals(expected));
      }
      for (const offset of released) {
        t.true(pageOf(a.emulator, offset).equals(Buffer.alloc(PAGE_SIZE_BYTES)));
      }
      await t.throwsAsync(a.emulator.resume(), { code: 'COLO_E_QEMU' });
      await a.emulator.kill();
    });
  }
}

export interface SwitchOver {
  readonly source: Emulator;
  readonly b: Subject;
  readonly missing: MissingPages;
  readonly state: Buffer;
}

/** A paused source with its device state, and a destination that has nothing. */
export async function switchOver(kind: SubjectKind): Promise<SwitchOver> {
  const a = await kind.launch({ ramMapping: 'shared', startPaused: false });
  await a.untilItRuns();
  const b = await kind.launch({ ramMapping: 'shared', startPaused: true, missingPages: true });
  await a.untilItRuns();
  await a.emulator.pause();
  const state = await a.emulator.saveDeviceState();
  const missing = b.emulator.missingPages;
  if (missing === undefined) throw new Error('It was launched for missing pages');
  return { source: a.emulator, b, missing, state };
}

/** Gives what is asked for at once; the result says what that was. */
function serveFrom(source: Emulator, missing: MissingPages): Map<number, number> {
  const asked = new Map<number, number>();
  missing.onFault(({ offset, threadId }) => {
    asked.set(offset, threadId);
    missing.place(offset, pageOf(source, offset));
  });
  return asked;
}

/** What the load itself wrote is asked for again. */
function takeBackLoad(source: Emulator, destination: Emulator, missing: MissingPages): void {
  const hasData = pagesOf(source.ram.dataRanges());
  const written = [...pagesOf(destination.scanWritten())];
  const again = written.filter((page) => hasData.has(page));
  missing.discard(written.map((page) => toRange(page * PAGE_SIZE_BYTES)));
  for (const page of written) {
    if (!again.includes(page)) missing.placeZero(toRange(page * PAGE_SIZE_BYTES));
  }
}

/** Places the rest in small batches while the guest runs, and gives what it wrote meanwhile. */
export async function pushRest(
  source: Emulator,
  missing: MissingPages,
  b: Subject,
): Promise<PageRange[]> {
  const written: PageRange[] = [];
  const batchBytes = BATCH_PAGES * PAGE_SIZE_BYTES;
  for (const range of missing.missingRanges().reverse()) {
    for (let at = 0; at < range.length; at += batchBytes) {
      const offset = range.offset + at;
      const bytes = Buffer.alloc(Math.min(batchBytes, range.length - at));
      source.ram.copyOut(offset, bytes);
      missing.place(offset, bytes);
      stepped(b);
      await new Promise((resolve) => setImmediate(resolve));
      written.push(...b.emulator.scanWritten());
    }
  }
  return written;
}

/** Pauses; all pages but those reported as written are the source's, and those reported are not. */
export async function assertMoved(
  t: ExecutionContext,
  { source, b, written }: { source: Emulator; b: Subject; written: readonly PageRange[] },
): Promise<void> {
  await b.emulator.pause();
  const found = [...pagesOf([...written, ...b.emulator.scanWritten()])].sort((x, y) => x - y);
  t.deepEqual(differingPages(ramOf(source), ramOf(b.emulator)), found);
  const { register, memory } = readCounters(b.emulator);
  t.true(register - memory === 0 || register - memory === 1);
  t.true(memory > readCounters(source).memory, 'the guest went on');
}

/** Tracking is what it is on any PVM: exact, after a first scan that may give all. */
async function assertTracked(t: ExecutionContext, b: Subject): Promise<void> {
  await b.emulator.pause();
  b.emulator.scanWritten();
  const before = ramOf(b.emulator);
  await b.emulator.resume();
  await b.untilItRuns();
  await b.emulator.pause();
  const found = [...pagesOf(b.emulator.scanWritten())].sort((x, y) => x - y);
  t.deepEqual(found, differingPages(before, ramOf(b.emulator)));
  t.true(found.length > 0);
}

/** The first page that somebody waits for; it stays so, as nobody serves. */
async function untilWaiting(b: Subject, missing: MissingPages): Promise<number> {
  await until('A wait for a page', () => stepped(b) && missing.waitedFor().length > 0);
  return missing.waitedFor()[0] ?? -1;
}

/** A fake runs only when it is let; QEMU has no such thing. */
function stepped({ emulator }: Subject): true {
  if ('step' in emulator && typeof emulator.step === 'function') emulator.step();
  return true;
}

/** Every other page each. */
function splitPages(ranges: readonly PageRange[]): [number[], number[]] {
  const offsets = [...pagesOf(ranges)].map((page) => page * PAGE_SIZE_BYTES);
  return [offsets.filter((_, i) => i % 2 === 1), offsets.filter((_, i) => i % 2 === 0)];
}

function toRange(offset: number): PageRange {
  return { offset, length: PAGE_SIZE_BYTES };
}

function holds(range: PageRange, offset: number): boolean {
  return offset >= range.offset && offset < range.offset + range.length;
}

export function pageOf(emulator: Emulator, offset: number): Buffer {
  const page = Buffer.alloc(PAGE_SIZE_BYTES);
  emulator.ram.copyOut(offset, page);
  return page;
}

function copyRange(emulator: Emulator, { offset, length }: PageRange, ram: Buffer): void {
  emulator.ram.copyOut(offset, ram.subarray(offset, offset + length));
}
