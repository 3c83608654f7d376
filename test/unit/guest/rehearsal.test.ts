/** A thread that waits for a guest does its work on memory of its own, and leaves nothing of it. */
import { readdirSync } from 'node:fs';
import test from 'ava';
import { REHEARSAL_FAULTS } from '../../../src/guest/faults/limits.js';
import { Rehearsal } from '../../../src/guest/index.js';
import { probeUserfaultfd } from '../../../src/linux/index.js';
import { LogCollector } from '../transport/support.js';

const noTracking = probeUserfaultfd();
const run = noTracking === undefined ? test.serial : test.serial.skip;
if (noTracking !== undefined) {
  test(`the rehearsal can not be tested here: ${noTracking}`, (t) => t.pass());
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

run('pages come for faults that nobody waits for, and no descriptor stays open', async (t) => {
  const log = new LogCollector();
  // What the process opens once and keeps.
  await new Rehearsal(log, 0).over;
  const before = openFiles();
  t.true((await new Rehearsal(log, 0).over) > 100);
  t.true(openFiles() <= before, `${openFiles()} instead of ${before}`);
  t.deepEqual(log.lines, []);
});

run('it ends in the middle when there is a guest', async (t) => {
  const log = new LogCollector();
  const rehearsal = new Rehearsal(log, 0);
  setTimeout(() => rehearsal.end(), 20);
  t.true((await rehearsal.over) < REHEARSAL_FAULTS);
});

run('one that has not begun by then never does', async (t) => {
  const log = new LogCollector();
  const rehearsal = new Rehearsal(log, 50);
  rehearsal.end();
  t.is(await rehearsal.over, 0);
});
