import { readdir } from 'node:fs/promises';
import test from 'ava';
import {
  hasDeparted,
  readMigrationRecord,
  removeMigrationRecord,
  writeMigrationRecord,
} from '../../../src/guest/index.js';
import { temporaryFolder } from '../../support/temporary.js';

const FIRST = '1'.repeat(32);
const SECOND = '2'.repeat(32);

test('a host whose guest was to come back and did not is still without it', async (t) => {
  const place = { stateDir: temporaryFolder(t), vm: 'web' };
  t.is(await readMigrationRecord(place), undefined);
  t.false(hasDeparted(undefined));
  await writeMigrationRecord(place, FIRST, 'moving');
  t.false(hasDeparted(await readMigrationRecord(place)));
  await writeMigrationRecord(place, FIRST, 'given-up');
  t.true(hasDeparted(await readMigrationRecord(place)));
  await writeMigrationRecord(place, SECOND, 'taking');
  await writeMigrationRecord(place, SECOND, 'discarded');
  t.deepEqual(await readMigrationRecord(place), {
    ...{ migration: SECOND, what: 'discarded', departed: true },
  });
  t.true(hasDeparted(await readMigrationRecord(place)));
  await writeMigrationRecord(place, SECOND, 'taking');
  await writeMigrationRecord(place, SECOND, 'owns');
  t.false(hasDeparted(await readMigrationRecord(place)));
  await removeMigrationRecord(place);
  t.deepEqual(await readdir(place.stateDir), []);
});
