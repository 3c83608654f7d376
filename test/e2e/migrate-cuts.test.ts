/**
 * The link is cut during a postcopy: it comes back, and it does not. `scripts/migration-matrix --parts
 * cuts` does so a hundred times; its `--seed` repeats a run.
 */
import test from 'ava';
import { CutLab } from '../../scripts/migration-run/cut-round.js';
import { Prng } from '../../src/lib/index.js';
import { withContext } from './migration-context.js';

/** Longer than a session may be silent. */
const CUT_MS_MAX = 12_000;

test.serial('memory survives a cut of the link in a postcopy, mended or not', async (t) => {
  await withContext(t, async (context) => {
    const seed = Date.now() % 1_000_000;
    t.log(`seed ${seed}`);
    const lab = new CutLab(context);
    try {
      for (const lasting of [false, true]) {
        const wish = { cut: lasting ? 2 : 1, lasting, cutMsMax: CUT_MS_MAX };
        const result = await lab.round(wish, new Prng(seed + wish.cut));
        t.log(JSON.stringify(result));
        t.deepEqual(result.problems, []);
      }
    } finally {
      await lab.finish();
    }
  });
});
