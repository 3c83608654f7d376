/**
 * A worker with memory of its own that somebody else serves: counts up in each page, as a guest
 * would, round after round. Says first where the memory is, begins when it is told to, and says at
 * the end what it has counted to.
 */
import { once } from 'node:events';
import { parentPort, workerData } from 'node:worker_threads';
import { assert, PAGE_SIZE_BYTES } from '../../src/lib/index.js';
import { createMemoryFile, MemoryMap, Userfaultfd } from '../../src/linux/index.js';

export interface PageToucherOptions {
  readonly pages: number;
  readonly rounds: number;
  /** The order of the pages in a round; coprime to `pages`. */
  readonly stride: number;
}

/** What it says at the end. */
export interface Touched {
  /** Page and what was counted to. */
  readonly counts: readonly (readonly [number, number])[];
  /** How long the first touch of each page took. */
  readonly waitsUs: readonly number[];
}

/** Numbers that are good in every thread. The worker keeps the mapping, the rest is handed over. */
export interface ToucherMemory {
  readonly address: number;
  readonly file: number;
  readonly userfaultfd: number;
}

const { pages, rounds, stride } = workerData as PageToucherOptions;
const file = createMemoryFile('colo-test', pages * PAGE_SIZE_BYTES);
const map = MemoryMap.ofFile(file, pages * PAGE_SIZE_BYTES);
const memory = map.view(0, map.sizeBytes);
assert(memory !== undefined && parentPort !== null, 'This is a worker');
const { address } = map;
const told = once(parentPort, 'message');
parentPort.postMessage({ address, file, userfaultfd: Userfaultfd.open().fd });
await told;
const counts = new Map<number, number>();
const waitsUs: number[] = [];
for (let i = 0; i < pages * rounds; i++) {
  const page = (i * stride) % pages;
  const began = i < pages ? performance.now() : 0;
  const count = memory.readUInt32LE(page * PAGE_SIZE_BYTES) + 1;
  memory.writeUInt32LE(count, page * PAGE_SIZE_BYTES);
  if (i < pages) waitsUs.push(Math.round((performance.now() - began) * 1000));
  counts.set(page, count);
}
const touched: Touched = { counts: [...counts], waitsUs };
parentPort.postMessage(touched);
