import test from 'ava';
import { FaultStatistics } from '../../../src/emulator/index.js';
import { PAGE_SIZE_BYTES } from '../../../src/lib/index.js';

const VCPUS = [101, 102];
const at = (page: number): number => page * PAGE_SIZE_BYTES;
const pages = (page: number, count: number) => ({
  offset: at(page),
  length: count * PAGE_SIZE_BYTES,
});

test('waits add up per vCPU, those of other threads together', (t) => {
  const statistics = new FaultStatistics(VCPUS);
  t.true(statistics.faulted(at(3), 101, 1000));
  t.false(statistics.faulted(at(3), 102, 1020), 'the page is asked for already');
  t.true(statistics.faulted(at(9), 7, 1050));
  statistics.placed(pages(0, 8), 1100);
  t.deepEqual(statistics.waitedFor(pages(0, 64)), [at(9)]);
  statistics.placed(pages(9, 1), 1110);
  statistics.faulted(at(4), 101, 2000);
  statistics.placed(pages(4, 1), 2005);
  t.deepEqual(statistics.figures(), {
    ...{ faults: 4, p50Us: 60, p99Us: 100, maxUs: 100 },
    ...{ blockedUs: [105, 80], blockedElsewhereUs: 60 },
  });
});

test('a page that nobody waits for is no wait, and one that is waited for not yet', (t) => {
  const statistics = new FaultStatistics(VCPUS);
  statistics.placed(pages(0, 64), 50);
  statistics.faulted(at(1), 101, 60);
  t.deepEqual(statistics.figures(), {
    ...{ faults: 0, p50Us: 0, p99Us: 0, maxUs: 0, blockedUs: [0, 0], blockedElsewhereUs: 0 },
  });
  t.deepEqual(statistics.waitedFor(pages(0, 1)), []);
  t.deepEqual(statistics.waitedFor(pages(1, 1)), [at(1)]);
  statistics.placed(pages(1, 1), 70);
  t.true(statistics.faulted(at(1), 102, 80), 'dropped again, it is asked for again');
});
