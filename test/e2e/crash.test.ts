/** A power cut of each kind; `scripts/crash-test` does it more often. */
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { FAULTS, parseOptions } from '../../scripts/crash-run/options.js';
import { CrashTest } from '../../scripts/crash-run/round.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { Prng } from '../../src/lib/index.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

test('after a power cut of any host the disks hold what clients were told', async (t) => {
  const options = parseOptions([], Date.now());
  t.log(`seed ${options.seed}`);
  const crash = new CrashTest({
    root,
    guest: await guestFiles(root),
    options,
    prng: new Prng(options.seed),
    tell: (text) => t.log(text),
  });
  try {
    for (const [index, fault] of FAULTS.entries()) {
      const result = await crash.round(index + 1, fault);
      t.log(JSON.stringify(result));
      t.deepEqual(result.problems, []);
      t.true(result.acknowledged > 0);
      t.true(result.images.every(({ demanded }) => demanded > 0));
    }
    t.deepEqual(await crash.finish(), []);
  } finally {
    await crash.abandon({ keepFiles: false });
  }
});
