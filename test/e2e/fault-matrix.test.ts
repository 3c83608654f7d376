/** A few cells of the fault matrix, once each; `scripts/fault-matrix` runs all of them. */
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { parseOptions } from '../../scripts/matrix-run/options.js';
import { FaultMatrix } from '../../scripts/matrix-run/round.js';
import { Prng } from '../../src/lib/index.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const CELLS = [
  'stop-qemu/primary',
  'power-cut/secondary',
  'link-one-way/primary',
  'lan-cut/primary',
];
/** What is long is for a machine at rest to judge; a busy one must not look like a lost peer. */
const PATIENT = ['--peer-timeout', '3000', '--slack', '60000'];

test('a pair survives a few faults in a row, and is protected again after each', async (t) => {
  const options = parseOptions(['--cells', CELLS.join(','), ...PATIENT], Date.now());
  t.log(`seed ${options.seed}`);
  const matrix = new FaultMatrix({
    root,
    guest: await guestFiles(root),
    options,
    prng: new Prng(options.seed),
    tell: (text) => t.log(text),
  });
  try {
    t.is(options.cells.length, CELLS.length);
    for (const cell of options.cells) {
      const result = await matrix.round(cell, 1);
      t.log(JSON.stringify(result));
      t.deepEqual(result.problems, []);
    }
  } finally {
    await matrix.finish();
  }
});
