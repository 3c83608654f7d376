/**
 * Both fault threads over a real session: a worker touches memory that lacks its pages, whose
 * contents the source has. `COLO_TIMING=1` tells how long it waited for them.
 */
import { once } from 'node:events';
import { closeSync, writeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import test, { type ExecutionContext } from 'ava';
import { FaultServer } from '../../../src/emulator/index.js';
import { type FaultReport, FaultSource, FaultTarget } from '../../../src/guest/index.js';
import { countBytes, PAGE_SIZE_BYTES } from '../../../src/lib/index.js';
import { createMemoryFile, probeUserfaultfd } from '../../../src/linux/index.js';
import type { PageToucherOptions, Touched, ToucherMemory } from '../../support/page-toucher.js';
import { LogCollector, startListener, startSession } from '../transport/support.js';

const PAGES = 1024;
const SIZE_BYTES = PAGES * PAGE_SIZE_BYTES;
const FIRST = 0x0101_0101;
const noTracking = probeUserfaultfd();
const run = noTracking === undefined ? test.serial : test.serial.skip;

interface Toucher {
  readonly server: FaultServer;
  touch(): Promise<Touched>;
  end(): Promise<void>;
}

/** Touches one page after the other of those that it lacks, all of them. */
async function startToucher(t: ExecutionContext): Promise<Toucher> {
  const url = new URL('../../support/page-toucher.js', import.meta.url);
  const workerData: PageToucherOptions = { pages: PAGES, rounds: 1, stride: 37 };
  const worker = new Worker(url, { workerData });
  const [memory] = (await once(worker, 'message')) as [ToucherMemory];
  const server = new FaultServer(
    {
      ...{ userfaultfd: memory.userfaultfd, ramFd: memory.file, address: memory.address },
      ...{ sizeBytes: SIZE_BYTES, vcpuThreads: [] },
    },
    { begin: () => undefined, begun: () => undefined, end: (change) => change() },
  );
  t.teardown(() => closeSync(memory.file));
  return {
    server,
    async touch() {
      worker.postMessage('go');
      const [touched] = (await once(worker, 'message')) as [Touched];
      return touched;
    },
    end: async () => {
      await worker.terminate();
    },
  };
}

/** Page n is full of `FIRST`, and has n in its second word. */
function ramOf(t: ExecutionContext) {
  const fd = createMemoryFile('guest', SIZE_BYTES);
  const page = Buffer.alloc(PAGE_SIZE_BYTES, 1);
  for (let at = 0; at < SIZE_BYTES; at += PAGE_SIZE_BYTES) {
    page.writeUInt32LE(at / PAGE_SIZE_BYTES, 4);
    writeSync(fd, page, 0, PAGE_SIZE_BYTES, at);
  }
  t.teardown(() => closeSync(fd));
  return { fd, at: 0, sizeBytes: SIZE_BYTES };
}

interface Lane {
  readonly toucher: Toucher;
  readonly source: FaultSource;
  readonly target: FaultTarget;
  readonly reports: FaultReport[];
  readonly failures: Error[];
}

async function laneOf(
  t: ExecutionContext,
  options: { near: boolean; tellsBytes: boolean; places: boolean },
): Promise<Lane> {
  const toucher = await startToucher(t);
  const [reports, failures]: [FaultReport[], Error[]] = [[], []];
  const log = new LogCollector();
  const onFailure = (error: Error) => failures.push(error);
  const source = new FaultSource({ log, ram: ramOf(t), onFailure });
  const { near, tellsBytes } = options;
  const target = new FaultTarget({
    ...{ log, onFailure, ramSizeBytes: SIZE_BYTES, near, tellsBytes },
  });
  target.borrow(toucher.server, {
    onReport: (report) => reports.push(report),
    onPassedOn: (offset, bytes) => {
      toucher.server.place(offset, bytes);
    },
  });
  t.teardown(async () => {
    toucher.server.close();
    await target.end();
    await source.stop();
    await source.end();
    await toucher.end();
  });
  return { toucher, source, target, reports, failures };
}

async function join(t: ExecutionContext, { source, target }: Lane) {
  const { near, far } = await startSession(t, await startListener(t));
  await Promise.all([source.attach(near), target.attach(far)]);
  return { near, far };
}

function begin({ toucher, source, target }: Lane, options: { places: boolean }): void {
  source.begin();
  toucher.server.start([{ offset: 0, length: SIZE_BYTES }]);
  target.serve(options);
}

function assertTouched(t: ExecutionContext, { counts, waitsUs }: Touched): void {
  t.is(counts.length, PAGES);
  t.true(counts.every(([, count]) => count === FIRST + 1));
  if (process.env['COLO_TIMING'] === undefined) return;
  const sorted = [...waitsUs].sort((a, b) => a - b);
  t.log(`us: p50 ${sorted[PAGES / 2]}, p99 ${sorted[Math.floor(PAGES * 0.99)]}`);
  t.log(`first ten: ${waitsUs.slice(0, 10).join(' ')}`);
}

run('each page comes when it is touched, is placed once, and is told with its bytes', async (t) => {
  const lane = await laneOf(t, { near: false, tellsBytes: true, places: true });
  const { far } = await join(t, lane);
  begin(lane, { places: true });
  assertTouched(t, await lane.toucher.touch());
  await lane.toucher.server.finish();
  const placed = lane.reports.flatMap((report) => report.placed);
  t.is(countBytes(placed), SIZE_BYTES);
  t.is(lane.reports.flatMap(({ faulted }) => faulted).length, PAGES);
  t.is(lane.reports.flatMap(({ waitsUs }) => waitsUs).length, PAGES);
  for (const { offset, bytes } of lane.reports.flatMap(({ contents }) => contents)) {
    t.is(Buffer.from(bytes.buffer).readUInt32LE(4), offset / PAGE_SIZE_BYTES);
  }
  const { faults, p50Us, p99Us } = lane.target.figures();
  t.is(faults, PAGES);
  if (process.env['COLO_TIMING'] !== undefined) t.log(`as seen: p50 ${p50Us}, p99 ${p99Us}`);
  t.is(far.closeReason, undefined, 'the session goes on without faults');
  t.deepEqual(lane.failures, []);
});

run('what is beside a page comes with it, and few are waited for', async (t) => {
  const lane = await laneOf(t, { near: true, tellsBytes: false, places: true });
  await join(t, lane);
  begin(lane, { places: true });
  assertTouched(t, await lane.toucher.touch());
  await lane.toucher.server.finish();
  t.true(lane.target.figures().faults < PAGES / 4);
  t.is(countBytes(lane.reports.flatMap(({ placed }) => placed)), SIZE_BYTES);
});

run('a page that is waited for when a session is lost comes in the next', async (t) => {
  const lane = await laneOf(t, { near: false, tellsBytes: false, places: true });
  const { near } = await join(t, lane);
  begin(lane, { places: true });
  const touched = lane.toucher.touch();
  for (let lost = 0; lost < 3; lost += 1) {
    while ((lane.reports.at(-1)?.placed.length ?? 0) === 0) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    lane.reports.length = 0;
    if (lost === 0) near.destroy();
    await join(t, lane);
  }
  assertTouched(t, await touched);
  await lane.toucher.server.finish();
  t.deepEqual(lane.failures, []);
});

run('until it is told to place them pages are passed on', async (t) => {
  const lane = await laneOf(t, { near: false, tellsBytes: false, places: false });
  await join(t, lane);
  begin(lane, { places: false });
  const touched = lane.toucher.touch();
  while (lane.toucher.server.missingCount > PAGES - 10) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.deepEqual(
    lane.reports.flatMap(({ placed }) => placed),
    [],
  );
  lane.target.placeThere();
  assertTouched(t, await touched);
  await lane.toucher.server.finish();
  t.true(countBytes(lane.reports.flatMap(({ placed }) => placed)) > 0);
});
