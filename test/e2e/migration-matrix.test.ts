/**
 * A cell of the migration matrix, and a few cuts of the link during a postcopy;
 * `scripts/migration-matrix` has all cells, a hundred cuts, and hosts that are killed.
 */
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { CutLab } from '../../scripts/migration-run/cut-round.js';
import type { LabContext } from '../../scripts/migration-run/movable-lab.js';
import { moveRound } from '../../scripts/migration-run/move-round.js';
import { Prng } from '../../src/lib/index.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
/** How long something took is for a machine at rest to judge. */
const SLACK_MS = 60_000;
/** Longer than a session may be silent. */
const CUT_MS_MAX = 12_000;

async function withContext(
  t: ExecutionContext,
  body: (context: LabContext) => Promise<void>,
): Promise<void> {
  const all = new Cleanup();
  const running = new Set<Cleanup>();
  all.add('labs', async () => {
    await Promise.all([...running].map((cleanup) => cleanup.run()));
  });
  const stopListening = all.onSignals();
  try {
    const guest = await guestFiles(ROOT);
    const tell = (text: string): void => t.log(text);
    const interrupted = (): boolean => all.interrupted;
    await body({ root: ROOT, guest, keep: false, kept: [], tell, running, interrupted });
  } finally {
    await all.run();
    stopListening();
  }
}

test.serial('a guest under load moves by hybrid over TLS: RAM, clients and downtime', async (t) => {
  await withContext(t, async (context) => {
    const cell = { guest: 'redis', method: 'hybrid', security: 'tls' } as const;
    const result = await moveRound(context, { cell, round: 1, slackMs: SLACK_MS });
    t.log(JSON.stringify(result));
    t.deepEqual(result.problems, []);
    t.true(result.ramVerified);
  });
});

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
