/** What the rounds of the migration matrix need, as a test has it. */
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import type { LabContext } from '../../scripts/migration-run/movable-lab.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** For the rounds of `scripts/migration-matrix`; their labs are gone afterwards. */
export async function withContext(
  t: ExecutionContext,
  body: (context: LabContext) => Promise<void>,
  disk: LabContext['disk'] = 'moved',
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
    await body({ root: ROOT, guest, disk, keep: false, kept: [], tell, running, interrupted });
  } finally {
    await all.run();
    stopListening();
  }
}
