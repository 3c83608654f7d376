import test from 'ava';
import {
  appliedAt,
  beginAlone,
  beginSync,
  closed,
  committedAt,
  decodeRecord,
  encodeRecord,
  type GenerationRecord,
  imageChange,
  lineageOf,
  opened,
  standbyAt,
} from '../../../../src/blockrep/generation/record.js';
import { GENERATION_HISTORY_MAX, GENERATIONS_TOLD_MAX } from '../../../../src/blockrep/limits.js';
import { alone, at, BOOT, first, generation, IMAGE, OTHER_BOOT, standby } from './records.js';

test('a record is read as it was written', (t) => {
  const record = alone(first(1, 7), 2);
  t.deepEqual(decodeRecord(encodeRecord(record)), { ok: true, record });
});

test('a record of which any bit is another one is refused, and what was found is said', (t) => {
  const bytes = encodeRecord(alone(first(1, 7), 2));
  for (let i = 0; i < bytes.length; i++) {
    for (const mask of [1, 0x10]) {
      const damaged = Buffer.from(bytes);
      damaged[i] = (damaged[i] as number) ^ mask;
      const decoded = decodeRecord(damaged);
      // White space between the members carries nothing.
      if (decoded.ok) t.regex(String.fromCharCode(bytes[i] as number), /\s/);
      else t.true(decoded.found.length > 0 && decoded.expected.length > 0);
    }
  }
});

test('a record that is cut anywhere is refused', (t) => {
  const bytes = encodeRecord(first(1));
  for (let length = 0; length < bytes.length - 1; length++) {
    t.false(decodeRecord(bytes.subarray(0, length)).ok);
  }
});

test('every field is checked, with a right checksum, too', (t) => {
  const record = alone(first(1, 7), 2);
  const wrong: Record<string, unknown>[] = [
    { version: 2 },
    { epoch: -1 },
    { epoch: 1.5 },
    { generation: 'none' },
    { state: 'busy' },
    { clean: 1 },
    { bootId: '' },
    { sizeBytes: 0 },
    { since: 'yesterday' },
    { host: 'x'.repeat(300) },
    { vm: undefined },
    { image: { ...IMAGE, inode: '-7' } },
    { history: [{ ...record.history[0], role: 'witness' }] },
    { history: Array(GENERATION_HISTORY_MAX + 1).fill(record.history[0]) },
    { extra: true },
  ];
  for (const fields of wrong) {
    const bytes = encodeRecord({ ...record, ...fields } as GenerationRecord);
    t.like(decodeRecord(bytes), { ok: false, expected: 'a valid value there' });
  }
});

test('who goes on alone begins a generation and remembers the one before', (t) => {
  const before = { ...first(1), epoch: 7 };
  const next = { generation: generation(2), host: 'anna', at: at(5), exact: false };
  const record = beginAlone(before, next);
  t.like(record, { generation: generation(2), epoch: 0, state: 'active', since: at(5) });
  const entry = { generation: generation(1), epoch: 7, exact: false, host: 'anna', at: at(5) };
  t.deepEqual(record.history, [{ ...entry, role: 'primary' }]);
});

test('a promotion is remembered as one, and keeps the peer as its past', (t) => {
  const peer = alone(first(1, 3), 2, { epoch: 9 });
  const promoted = alone(standby(peer, 9), 4, { host: 'bert' });
  t.deepEqual(
    promoted.history.map(({ generation, epoch, role, host }) => [generation, epoch, role, host]),
    [
      [generation(2), 9, 'secondary', 'bert'],
      [generation(1), 3, 'primary', 'anna'],
    ],
  );
});

test('no guest may start on an image that is being overwritten or was given up', (t) => {
  for (const state of ['syncing', 'discarded'] as const) {
    t.throws(() => alone({ ...first(1), state }, 2), { code: 'COLO_E_BUG' } as never);
  }
});

test('epochs only go up', (t) => {
  t.is(committedAt(first(1, 7), 6).epoch, 7);
  t.is(committedAt(first(1, 7), 8).epoch, 8);
  const stands = standby(first(1), 7);
  t.is(appliedAt(stands, 6).epoch, 7);
  t.is(appliedAt(stands, 8).epoch, 8);
  t.throws(() => appliedAt(first(1), 8));
  t.throws(() => committedAt(stands, 8));
});

test('a synchronisation has no state until the first epoch is applied', (t) => {
  const syncing = beginSync(standby(first(1), 7));
  t.is(syncing.state, 'syncing');
  const done = standbyAt(syncing, lineageOf(alone(first(1, 7), 2)), 12);
  t.like(done, { state: 'standby', generation: generation(2), epoch: 12 });
  t.is(done.history.length, 1);
});

test('the history is bounded; generations that no peer had part in are forgotten first', (t) => {
  let record = alone(first(1, 5), 2);
  for (let i = 3; i < 3 + 2 * GENERATION_HISTORY_MAX; i++) record = alone(record, i);
  t.is(record.history.length, GENERATION_HISTORY_MAX);
  t.is(record.history.at(-1)?.generation, generation(1), 'the shared one is still known');
  t.is(record.history[0]?.generation, generation(1 + 2 * GENERATION_HISTORY_MAX));
  t.true(decodeRecord(encodeRecord(record)).ok);
  t.is(lineageOf(record).history.length, GENERATIONS_TOLD_MAX);
  // All shared: the oldest goes.
  let shared = first(1, 5);
  for (let i = 2; i < 2 + GENERATION_HISTORY_MAX + 5; i++) shared = alone(shared, i, { epoch: 5 });
  t.is(shared.history.length, GENERATION_HISTORY_MAX);
  t.is(shared.history.at(-1)?.generation, generation(6));
});

test('an image is known again: its file, and since a clean close its time', (t) => {
  const open = first(1);
  const clean = closed(open, IMAGE);
  const now = (image: object, bootId = BOOT) => ({ image: { ...IMAGE, ...image }, bootId });
  t.is(imageChange(clean, now({})), undefined);
  t.is(imageChange(clean, now({ modifiedNs: '1700000000123456790' })), 'written');
  t.is(imageChange(open, now({ modifiedNs: '5' })), undefined, 'a crash leaves any time');
  t.is(imageChange(clean, now({ inode: '78' })), 'replaced');
  t.is(imageChange(open, now({ device: '2050' })), 'replaced');
  t.is(imageChange(clean, now({ device: '2050' }, OTHER_BOOT)), undefined, 'devices move at boot');
  t.is(imageChange(clean, now({ kind: 'block' })), 'replaced');
  const block = closed(open, { ...IMAGE, kind: 'block' });
  t.is(imageChange(block, now({ kind: 'block', inode: '9', modifiedNs: '9' })), undefined);
  t.like(opened(clean, now({ modifiedNs: '6' }, OTHER_BOOT)), {
    clean: false,
    bootId: OTHER_BOOT,
    image: { ...IMAGE, modifiedNs: '6' },
  });
});
