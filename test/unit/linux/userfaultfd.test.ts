import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { PAGE_SIZE_BYTES } from '../../../src/lib/index.js';
import {
  createMemoryFile,
  dataExtents,
  decodeFaults,
  MemoryMap,
  PagemapScanner,
  probeUserfaultfd,
  Userfaultfd,
} from '../../../src/linux/index.js';
import type { PageToucherOptions, Touched, ToucherMemory } from '../../support/page-toucher.js';

const PAGES = 509;
const SIZE_BYTES = PAGES * PAGE_SIZE_BYTES;

const reason = probeUserfaultfd();
const tried = reason === undefined ? test.serial : test.serial.skip;
if (reason !== undefined) test(`userfaultfd can not be tested here: ${reason}`, (t) => t.pass());

interface Registered {
  readonly userfaultfd: Userfaultfd;
  readonly map: MemoryMap;
  readonly file: number;
}

/** Missing pages in this process: a memory file whose mapping is registered. */
function register(): Registered & { close: () => void } {
  const file = createMemoryFile('colo-test', SIZE_BYTES);
  const map = MemoryMap.ofFile(file, SIZE_BYTES);
  const userfaultfd = Userfaultfd.open();
  userfaultfd.catchMissing(map.address, SIZE_BYTES);
  const close = (): void => {
    userfaultfd.close();
    map.close();
    closeSync(file);
  };
  return { userfaultfd, map, file, close };
}

interface Toucher {
  readonly userfaultfd: Userfaultfd;
  readonly address: number;
  /** The file of its memory, mapped here: what it has written, and no way to make it wait. */
  readonly map: MemoryMap;
  /** Lets it run until it ends. */
  touch(): Promise<Touched>;
  close(): Promise<void>;
}

/** Missing pages of a worker. */
async function startToucher(options: Omit<PageToucherOptions, 'pages'>): Promise<Toucher> {
  const url = new URL('../../support/page-toucher.js', import.meta.url);
  const worker = new Worker(url, { workerData: { ...options, pages: PAGES } });
  const [memory] = (await once(worker, 'message')) as [ToucherMemory];
  const userfaultfd = new Userfaultfd(memory.userfaultfd);
  userfaultfd.catchMissing(memory.address, SIZE_BYTES);
  const map = MemoryMap.ofFile(memory.file, SIZE_BYTES);
  return {
    ...{ userfaultfd, map, address: memory.address },
    async touch() {
      worker.postMessage('go');
      const [touched] = (await once(worker, 'message')) as [Touched];
      return touched;
    },
    async close() {
      userfaultfd.close();
      await worker.terminate();
      map.close();
      closeSync(memory.file);
    },
  };
}

tried('a page is placed where none is, never over what somebody wrote', async (t) => {
  const { userfaultfd, address, map, touch, close } = await startToucher({
    ...{ rounds: 3000, stride: 7 },
  });
  const poison = Buffer.alloc(PAGE_SIZE_BYTES, 0x77);
  let placed = 0;
  let done = false;
  const touched = touch().finally(() => {
    done = true;
  });
  // As a background sender that knows of no page whether it is there.
  for (let i = 0; !done; i++) {
    const page = address + ((i * 5) % PAGES) * PAGE_SIZE_BYTES;
    if (userfaultfd.place(page, poison) > 0) placed++;
    if (i % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  const { counts } = await touched;
  t.is(placed, PAGES, 'each page was placed once');
  t.is(counts.length, PAGES);
  for (const [page, count] of counts) {
    t.is(count, 0x77777777 + 3000);
    t.is(map.view(page * PAGE_SIZE_BYTES, 4)?.readUInt32LE(0), count, `page ${page}`);
  }
  await close();
});

tried('a batch ends before a page that is there, and goes on behind it', (t) => {
  const { userfaultfd, map, file, close } = register();
  const bytes = Buffer.alloc(8 * PAGE_SIZE_BYTES, 1);
  t.true(userfaultfd.placeZero(map.address + 5 * PAGE_SIZE_BYTES));
  t.false(userfaultfd.placeZero(map.address + 5 * PAGE_SIZE_BYTES));
  t.is(userfaultfd.place(map.address, bytes), 5 * PAGE_SIZE_BYTES);
  t.is(userfaultfd.place(map.address + 5 * PAGE_SIZE_BYTES, bytes), 0);
  const behind = map.address + 6 * PAGE_SIZE_BYTES;
  t.is(userfaultfd.place(behind, bytes), bytes.length);
  t.deepEqual(dataExtents(file, { offset: 0, length: SIZE_BYTES }), [
    { offset: 0, length: 14 * PAGE_SIZE_BYTES },
  ]);
  t.is(map.view(5 * PAGE_SIZE_BYTES, 1)?.[0], 0);
  close();
});

tried('placed pages count as not written until somebody writes there', async (t) => {
  const { userfaultfd, map, close } = register();
  const mapping = { pid: process.pid, address: map.address, length: SIZE_BYTES };
  const scanner = new PagemapScanner(mapping);
  scanner.takeWritten();
  t.is(userfaultfd.place(map.address, Buffer.alloc(SIZE_BYTES, 3)), SIZE_BYTES);
  t.deepEqual(scanner.takeWritten(), []);
  map.write(9 * PAGE_SIZE_BYTES, Buffer.of(4));
  t.deepEqual(scanner.takeWritten(), [{ offset: 9 * PAGE_SIZE_BYTES, length: PAGE_SIZE_BYTES }]);
  userfaultfd.trackOnly(map.address, SIZE_BYTES);
  t.deepEqual(scanner.takeWritten(), [{ offset: 0, length: SIZE_BYTES }], 'tracking began anew');
  map.write(0, Buffer.of(4));
  t.deepEqual(scanner.takeWritten(), [{ offset: 0, length: PAGE_SIZE_BYTES }]);
  scanner.close();
  close();
});

tried('who waits goes on with zeroes when waiting ends', async (t) => {
  const { userfaultfd, address, touch, close } = await startToucher({ rounds: 1, stride: 1 });
  const fault = new Promise((resolve) => userfaultfd.onFaults(([first]) => resolve(first)));
  const touched = touch();
  t.like(await fault, { address, write: false });
  userfaultfd.trackOnly(address, SIZE_BYTES);
  for (const [, count] of (await touched).counts) t.is(count, 1);
  userfaultfd.close();
  t.throws(() => userfaultfd.wake(address, SIZE_BYTES), { code: 'COLO_E_BUG' });
  await close();
});

tried('each page is asked for once, and served by another thread', async (t) => {
  const { userfaultfd, address, touch, close } = await startToucher({ rounds: 2, stride: 3 });
  const faults: number[] = [];
  userfaultfd.onFaults((found) => {
    for (const fault of found) {
      const value = (faults.length % 100) + 1;
      faults.push((fault.address - address) / PAGE_SIZE_BYTES);
      userfaultfd.place(fault.address, Buffer.alloc(PAGE_SIZE_BYTES, value));
    }
  });
  const { counts, waitsUs } = await touch();
  for (const [page, count] of counts) {
    t.is(count, ((faults.indexOf(page) % 100) + 1) * 0x01010101 + 2);
  }
  if (process.env['COLO_TIMING'] !== undefined) {
    const sorted = [...waitsUs].sort((x, y) => x - y);
    const [p50, p99] = [0.5, 0.99].map((part) => sorted[Math.floor(part * PAGES)]);
    t.log(`from touch to touched: p50 ${p50} us, p99 ${p99} us`);
  }
  t.is(faults.length, PAGES, 'one fault a page');
  await close();
});

test('a fault message tells address, access and thread; other kinds are left out', (t) => {
  const messages = Buffer.alloc(3 * 32);
  messages[0] = 0x12;
  messages.writeUInt32LE(1, 8);
  messages.writeBigUInt64LE(0x7f00_1234_5678n, 16);
  messages.writeUInt32LE(4711, 24);
  messages[32] = 0x15;
  messages[64] = 0x12;
  messages.writeBigUInt64LE(0x5000n, 80);
  t.deepEqual(decodeFaults(messages), [
    { address: 0x7f00_1234_5000, write: true, threadId: 4711 },
    { address: 0x5000, write: false, threadId: 0 },
  ]);
  t.deepEqual(decodeFaults(messages.subarray(0, 31)), []);
});
