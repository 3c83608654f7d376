import test from 'ava';
import { PAGE_SIZE_BYTES, type PageRange } from '../../../src/lib/index.js';
import {
  DemandQueue,
  decodeBatch,
  encodeBatch,
  FaultDemands,
  PageDecoder,
  plainBatch,
} from '../../../src/migration/index.js';
import {
  DEMAND_QUEUE,
  DEMANDED_BATCH_PAGES,
  DEMANDED_PAGES,
  NEAR_PAGES,
} from '../../../src/migration/limits.js';
import { PageRam } from '../../support/page-ram.js';

const PAGES = 20;
const rangeOf = (page: number, pages = 1): PageRange => {
  return { offset: page * PAGE_SIZE_BYTES, length: pages * PAGE_SIZE_BYTES };
};

function demandsOf(missing: Iterable<number>, near = true): FaultDemands {
  const set = new Set(missing);
  return new FaultDemands({ pages: PAGES, near, isMissing: (page) => set.has(page) });
}

const ALL = Array.from({ length: PAGES }, (_, page) => page);

test('a page is demanded first, then what of its block is missing, and within RAM', (t) => {
  t.is(NEAR_PAGES, 8);
  const demands = demandsOf([0, 1, 3, 4, 6, 16, 17, 18, 19]);
  t.deepEqual(demands.faulted(3), [rangeOf(3), rangeOf(0, 2), rangeOf(4), rangeOf(6)]);
  t.deepEqual(demands.faulted(19), [rangeOf(19), rangeOf(16, 3)]);
});

test('without neighbours only the page itself is demanded', (t) => {
  t.deepEqual(demandsOf(ALL, false).faulted(3), [rangeOf(3)]);
});

test('what was demanded is not demanded again before it has come, or the session is another', (t) => {
  const demands = demandsOf(ALL);
  demands.faulted(3);
  t.deepEqual(demands.faulted(3), []);
  t.deepEqual(demands.faulted(5), [], 'as a neighbour');
  t.is(demands.arrived(0, [rangeOf(3)]), undefined);
  // It is missing again: a load of the devices has written there.
  t.deepEqual(demands.faulted(3), [rangeOf(3)]);
  t.deepEqual(demands.restart([5, 3]), [[rangeOf(5), rangeOf(3)]]);
  t.deepEqual(demands.faulted(5), []);
  t.is(demands.arrived(0, [rangeOf(5)]), undefined);
});

test('another session is asked in sections within their bound', (t) => {
  const pages = Array.from({ length: DEMANDED_PAGES + 1 }, (_, page) => page);
  const lists = demandsOf([]).restart(pages);
  t.deepEqual(
    lists.map(({ length }) => length),
    [DEMANDED_PAGES, 1],
  );
});

test('batches come in order, and nothing that was not demanded', (t) => {
  const demands = demandsOf(ALL, false);
  demands.faulted(3);
  t.regex(demands.arrived(1, [rangeOf(3)]) ?? '', /batch 1 instead of 0/);
  t.is(demands.arrived(0, []), undefined, 'the answer to a rehearsal');
  t.regex(demands.arrived(1, [rangeOf(3, 2)]) ?? '', /page 4, which was not demanded/);
});

test('the source sends range by range in the order of the demand, in batches within bounds', (t) => {
  const queue = new DemandQueue(DEMANDED_PAGES);
  t.is(queue.add([rangeOf(9), rangeOf(0, DEMANDED_BATCH_PAGES + 1)]), undefined);
  t.is(queue.add([rangeOf(5)]), undefined);
  t.deepEqual(queue.take(), rangeOf(9));
  t.deepEqual(queue.take(), rangeOf(0, DEMANDED_BATCH_PAGES));
  t.deepEqual(queue.take(), rangeOf(DEMANDED_BATCH_PAGES));
  t.deepEqual(queue.take(), rangeOf(5));
  t.is(queue.take(), undefined);
});

test('a demand outside of RAM, of too much, or of more than can wait is refused', (t) => {
  const queue = new DemandQueue(DEMANDED_PAGES + 1);
  t.regex(queue.add([rangeOf(DEMANDED_PAGES + 1)]) ?? '', /can not lack/);
  t.regex(queue.add([rangeOf(0, DEMANDED_PAGES + 1)]) ?? '', /can not lack/);
  for (let pages = 0; pages < DEMAND_QUEUE; pages += DEMANDED_PAGES) {
    t.is(queue.add([rangeOf(0, DEMANDED_PAGES)]), undefined);
  }
  t.regex(queue.add([rangeOf(0)]) ?? '', /more than can wait/);
});

test('what was sent makes room for more', (t) => {
  const queue = new DemandQueue(DEMANDED_PAGES);
  for (let pages = 0; pages < 2 * DEMAND_QUEUE; pages += DEMANDED_BATCH_PAGES) {
    t.is(queue.add([rangeOf(0, DEMANDED_BATCH_PAGES)]), undefined);
    t.truthy(queue.take());
  }
});

test('pages that somebody waits for are coded as they are, zero pages without data', (t) => {
  for (const zeroes of [[], [0], [1, 2], [3], [0, 1, 2, 3]]) {
    const bytes = Buffer.alloc(4 * PAGE_SIZE_BYTES, 7);
    for (const page of zeroes) bytes.fill(0, page * 4096, (page + 1) * 4096);
    const coded = Buffer.concat(encodeBatch(plainBatch(5, bytes)));
    t.is(decodeBatch(coded, PAGES).data.length, (4 - zeroes.length) * PAGE_SIZE_BYTES);
    const ram = new PageRam(PAGES);
    ram.bytes.fill(9);
    t.is(new PageDecoder(PAGES, ram).apply(coded).written, 4);
    t.true(ram.bytes.subarray(5 * 4096, 9 * 4096).equals(bytes));
    t.true(ram.bytes.subarray(9 * 4096).every((byte) => byte === 9));
  }
  t.is(decodeBatch(Buffer.concat(encodeBatch(plainBatch(0, Buffer.alloc(0)))), PAGES).pages, 0);
});
