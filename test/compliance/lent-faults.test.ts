/** Faults that another thread serves, with its own objects over the same numbers. */
import test, { type ExecutionContext } from 'ava';
import { BorrowedFaults, type MissingPages, RamReader } from '../../src/emulator/index.js';
import { PAGE_SIZE_BYTES } from '../../src/lib/index.js';
import { probeUserfaultfd } from '../../src/linux/index.js';
import { cleanUpAfterEach } from '../support/clean-ups.js';
import { isAlive, qemuSubject } from '../support/emulator-subjects.js';
import {
  assertMoved,
  pageOf,
  pushRest,
  type SwitchOver,
  switchOver,
} from './missing-pages-suite.js';

const addCleanUp = cleanUpAfterEach();
const noTracking = probeUserfaultfd();
const run = noTracking === undefined ? test.serial : test.serial.skip;
const kind = qemuSubject('tcg', addCleanUp);

interface Lent {
  readonly faults: BorrowedFaults;
  readonly waitsUs: number[];
  readonly asked: number[];
  /** Called for each fault. */
  onFault: (offset: number) => void;
  released: number;
}

function lend(missing: MissingPages): Lent {
  const lent: { -readonly [K in keyof Lent]: Lent[K] } = {
    ...{ waitsUs: [], asked: [], onFault: () => undefined, released: 0 },
    faults: undefined as unknown as BorrowedFaults,
  };
  const handle = missing.lend({
    release: async () => {
      lent.released += 1;
      lent.faults.close();
    },
    figures: () => lent.faults.figures(),
  });
  lent.faults = new BorrowedFaults(handle, {
    onFault: (offset) => {
      lent.asked.push(offset);
      lent.onFault(offset);
    },
    onWaited: (waitUs) => lent.waitsUs.push(waitUs),
  });
  return lent;
}

/** As `ArrivingGuest.load` does it where a load resets devices. */
function takeBackLoad({ source, b, missing }: SwitchOver): void {
  for (const { offset, length } of b.emulator.scanWritten()) {
    for (let at = offset; at < offset + length; at += PAGE_SIZE_BYTES) {
      missing.discard([{ offset: at, length: PAGE_SIZE_BYTES }]);
      missing.place(at, pageOf(source, at));
    }
  }
}

/** One of the pages that the guest counts in; it comes to each of them once a lap. */
const COUNTED_OFFSET = 0x50000;

/** The guest goes on by pages that come for what it waits for, but for the one at `unserved`. */
async function begun(
  t: ExecutionContext,
  unserved?: number,
): Promise<SwitchOver & { lent: Lent; waits: Promise<void> }> {
  const moved = await switchOver(kind);
  const { source, b, missing, state } = moved;
  const lent = lend(missing);
  t.throws(() => missing.lend({ release: async () => undefined, figures: missing.figures }));
  const reader = new RamReader(source.ram.handle);
  let waiting = (): void => undefined;
  const waits = new Promise<void>((resolve) => {
    waiting = resolve;
  });
  lent.onFault = (offset) => {
    if (offset === unserved) return waiting();
    const page = Buffer.alloc(PAGE_SIZE_BYTES);
    reader.copyOut(offset, page);
    lent.faults.place(offset, page);
  };
  missing.start(source.ram.dataRanges());
  lent.faults.serve();
  await b.emulator.loadDeviceState(state);
  takeBackLoad(moved);
  await b.emulator.resume();
  return { ...moved, lent, waits };
}

run(
  'both place pages, the borrower serves the faults, and what is missing is one set',
  async (t) => {
    const { source, b, missing, lent } = await begun(t);
    const all = missing.missingCount;
    await b.untilItRuns();
    t.true(lent.asked.length > 0);
    t.is(new Set(lent.asked).size, lent.asked.length, 'each page is asked for once');
    t.true(lent.asked.every((offset) => !missing.isMissing(offset)));
    t.true(missing.missingCount <= all);
    const written = await pushRest(source, missing, b);
    t.is(missing.missingCount, 0);
    await assertMoved(t, { source, b, written });
    t.is(missing.figures().faults, lent.waitsUs.length);
    t.is(lent.released, 0);
    await missing.finish();
    t.is(lent.released, 1, 'the descriptor is given back before it is closed');
  },
);

run('a page that the lender places is waited for no more', async (t) => {
  const offset = COUNTED_OFFSET;
  const { source, b, missing, lent, waits } = await begun(t, offset);
  await waits;
  t.deepEqual(lent.faults.waitedFor(), [offset]);
  const count = lent.waitsUs.length;
  missing.place(offset, pageOf(source, offset));
  t.deepEqual(lent.faults.waitedFor(), []);
  t.is(lent.waitsUs.length, count + 1);
  // Late, and by the other way.
  lent.faults.place(offset, Buffer.alloc(PAGE_SIZE_BYTES, 0x99));
  t.not(pageOf(b.emulator, offset)[0], 0x99);
});

run('QEMU may be killed while its threads wait for pages that are lent', async (t) => {
  const { b, missing, lent, waits } = await begun(t, COUNTED_OFFSET);
  await waits;
  await b.emulator.kill();
  t.is(lent.released, 1);
  t.false(isAlive(b.emulator.description.pid));
  t.throws(() => missing.place(0, Buffer.alloc(PAGE_SIZE_BYTES)), { code: 'COLO_E_QEMU' });
  t.notThrows(() => lent.faults.place(0, Buffer.alloc(PAGE_SIZE_BYTES)), 'it does nothing');
});
