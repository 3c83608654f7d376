import test from 'ava';
import { type Contents, storedValue } from '../../../scripts/crash-run/contents.js';
import { EVERYTHING, Ledger, type WriterReport } from '../../../scripts/crash-run/ledger.js';

const REPORT: WriterReport = {
  sets: [
    { key: 'a', sentMs: 100, ackedMs: 110 },
    { key: 'b', sentMs: 200, ackedMs: 210 },
    { key: 'c', sentMs: 300, ackedMs: null },
  ],
  files: [
    { slot: '/d/s', version: 1, sentMs: 100, ackedMs: 150 },
    { slot: '/d/s', version: 2, sentMs: 300, ackedMs: null },
  ],
  load: [
    { sentMs: 100, answeredMs: 110, synced: 10 },
    { sentMs: 200, answeredMs: 210, synced: 20 },
  ],
  directories: ['/d'],
  refused: 0,
  problems: [],
};

interface Found {
  readonly keys?: readonly string[];
  readonly version?: number;
  readonly whole?: boolean;
  readonly highest?: number;
  readonly bad?: number;
}

function contents(found: Found): Contents {
  const { keys = ['a', 'b'], version = 1, whole = true, highest = 20, bad = 0 } = found;
  return {
    sets: new Map(keys.map((key) => [key, storedValue(key)])),
    files: version === 0 ? new Map() : new Map([['/d/s', { version, whole }]]),
    load: { highest, bad },
  };
}

function ledger(): Ledger {
  const made = new Ledger();
  made.add(REPORT);
  return made;
}

test('what was not acknowledged may be there or not', (t) => {
  t.deepEqual(ledger().check(contents({}), EVERYTHING), []);
  const all = contents({ keys: ['a', 'b', 'c'], version: 2, highest: 25 });
  t.deepEqual(ledger().check(all, EVERYTHING), []);
});

test('an acknowledged write that is missing is told, in each kind', (t) => {
  const found = contents({ keys: ['a'], version: 0, highest: 19 });
  const problems = ledger().check(found, EVERYTHING);
  t.is(problems.length, 3);
  t.regex(problems[0] ?? '', /b: acknowledged .*, and lost/);
  t.regex(problems[1] ?? '', /\/d\/s version 1: acknowledged .*, and lost/);
  t.regex(problems[2] ?? '', /block 20 was synced, but the highest is 19/);
});

test('before the bound only what was acknowledged by then must be there', (t) => {
  const bounds = { ackedBeforeMs: 205, sentUntilMs: 250 };
  t.deepEqual(ledger().check(contents({ keys: ['a'], highest: 10 }), bounds), []);
  t.is(ledger().check(contents({ keys: [], highest: 10 }), bounds).length, 1);
  t.is(ledger().check(contents({ keys: ['a'], highest: 9 }), bounds).length, 1);
  t.is(ledger().demanded(bounds), 2);
});

test('what was sent after the state was taken must not be in it', (t) => {
  const bounds = { ackedBeforeMs: 105, sentUntilMs: 150 };
  t.deepEqual(ledger().check(contents({ keys: ['a'], version: 1, highest: 21 }), bounds), []);
  const problems = ledger().check(contents({ keys: ['b'], version: 2, highest: 22 }), bounds);
  t.is(problems.length, 3);
  t.true(problems.slice(0, 2).every((problem) => problem.includes('after the state was taken')));
});

test('what a guest that went on elsewhere says of its blocks does not count', (t) => {
  const bounds = { ackedBeforeMs: 105, sentUntilMs: 150 };
  const found = contents({ keys: ['a'], highest: 30 });
  t.is(ledger().check(found, bounds).length, 1);
  t.deepEqual(ledger().check(found, { ...bounds, forked: true }), []);
});

test('another value, a torn file and bad blocks are told', (t) => {
  const found = contents({ whole: false, bad: 2 });
  const changed = new Map([...found.sets, ['a', 'a refused']]);
  const problems = ledger().check({ ...found, sets: changed }, EVERYTHING);
  t.is(problems.length, 3);
});

test('what was missing once must not appear, what was there must stay', (t) => {
  const missing = ledger();
  missing.settle(contents({}), 400);
  t.deepEqual(missing.check(contents({}), EVERYTHING), []);
  const appeared = missing.check(contents({ keys: ['a', 'b', 'c'], version: 2 }), EVERYTHING);
  t.is(appeared.length, 2);
  t.true(appeared.every((problem) => problem.includes('appeared by itself')));
  const there = ledger();
  there.settle(contents({ keys: ['a', 'b', 'c'], version: 2 }), 400);
  t.is(there.check(contents({}), EVERYTHING).length, 2);
});

test('the last acknowledged write tells until when all was synced', (t) => {
  t.is(ledger().lastSyncedMs(50), 200);
  t.is(ledger().lastSyncedMs(200), 0);
});
