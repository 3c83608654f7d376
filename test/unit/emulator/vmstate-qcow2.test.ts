import { execFileSync } from 'node:child_process';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { encodeVmStateFile, VM_STATE_OFFSET } from '../../../src/emulator/vmstate-qcow2.js';
import { makeTestDirectory } from '../../support/emulator-subjects.js';
import { goldenPath } from '../../support/golden.js';

function hexRows(bytes: Buffer): string {
  const rows: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    if (row.some((byte) => byte !== 0)) {
      rows.push(`${at.toString(16).padStart(6, '0')} ${row.toString('hex')}`);
    }
  }
  return `${rows.join('\n')}\n`;
}

test('the VM-state file is the golden one, byte by byte', (t) => {
  const golden = readFileSync(goldenPath('vmstate-qcow2.txt'), 'utf8');
  t.is(hexRows(encodeVmStateFile(128 * 1024)), golden);
});

for (const stateBytes of [64 * 1024, 8 * 2 ** 20, 512 * 2 ** 20]) {
  test(`qemu-img finds one snapshot and no error in a file for ${stateBytes} bytes`, (t) => {
    const directory = makeTestDirectory();
    t.teardown(directory.remove);
    const file = join(directory.path, 'state.qcow2');
    writeFileSync(file, encodeVmStateFile(stateBytes));
    truncateSync(file, VM_STATE_OFFSET + stateBytes);
    const check = execFileSync('qemu-img', ['check', '--output=json', file], { encoding: 'utf8' });
    const result = JSON.parse(check) as Record<string, unknown>;
    t.is(result['check-errors'], 0);
    t.is(result['corruptions'], undefined);
    t.is(result['leaks'], undefined);
    const info = execFileSync('qemu-img', ['info', '--output=json', file], { encoding: 'utf8' });
    const { snapshots } = JSON.parse(info) as { snapshots: Record<string, unknown>[] };
    t.is(snapshots.length, 1);
    t.like(snapshots[0], { name: 'colo', 'vm-state-size': stateBytes });
  });
}
