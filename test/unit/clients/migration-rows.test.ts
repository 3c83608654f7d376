import test from 'ava';
import {
  faultsOfTrace,
  formatMigrationTable,
  MigrationResults,
  moveSamples,
} from '../../../scripts/bench/migration-rows.js';

const MOVE = {
  totalMs: 400,
  launchedMs: null,
  downtimeMs: 20,
  stoppedMs: 21,
  outageMs: 30,
  wireBytes: 3 * 2 ** 20,
  ramBytes: 2 * 2 ** 20,
  faults: null,
};

test('a ratio is larger where colo is better, and absent without one of both', (t) => {
  const results = new MigrationResults();
  for (const totalMs of [300, 400, 500]) {
    for (const sample of moveSamples('idle', { ...MOVE, totalMs })) results.add('qemu', sample);
  }
  const ours = { ...MOVE, totalMs: 200, downtimeMs: null, launchedMs: 250 };
  for (const sample of moveSamples('idle', ours)) results.add('colo', sample);
  const rows = new Map(results.rows().map((row) => [row.name, row]));
  t.deepEqual(rows.get('idle-total'), {
    name: 'idle-total',
    unit: 'ms',
    qemu: 400,
    colo: 200,
    ratio: 2,
  });
  t.is(rows.get('idle-downtime')?.ratio, null);
  t.is(rows.get('idle-total-launch')?.qemu, null);
  t.is(rows.get('idle-wire')?.qemu, 3);
  t.false(rows.has('idle-faults'));
  t.regex(formatMigrationTable(results.rows()), /^idle-total +ms +400 +200 +2$/m);
});

test("QEMU's faults are from the request for a page to its placement", (t) => {
  const request = 'postcopy_ram_fault_thread_request Request for HVA=0x7f00';
  const text = [
    'qemu-system-x86_64: warning: something else',
    `12@100.000100:${request}1000 rb=ram offset=0x1000 pid=9`,
    '12@100.000150:postcopy_place_page host=0x7f00ffff0000',
    `12@100.000200:${request}2000 rb=ram offset=0x2000 pid=9`,
    `12@100.000210:${request}1000 rb=ram offset=0x1000 pid=10`,
    '12@100.000900:postcopy_place_page host=0x7f001000',
    '12@101.000200:postcopy_place_page_zero host=0x7f002000',
  ].join('\n');
  t.deepEqual(faultsOfTrace(text), { count: 2, p50Us: 800, p99Us: 1_000_000 });
  t.deepEqual(faultsOfTrace(''), { count: 0, p50Us: 0, p99Us: 0 });
});
