/** A guest that is not protected, and a second host that would take it. */
import type { ExecutionContext } from 'ava';
import { GuestPattern, NOBODY } from '../../scripts/harness/migration.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { type TestPairOptions, withPairLab } from './pair-harness.js';

export {
  colo,
  killConnections,
  migrate,
  type Outcome,
  runsHere,
  setLink,
  speakers,
} from '../../scripts/harness/migration.js';

/** hosta runs the guest, hostb waits; both go with `body`. */
export async function withMovable(
  t: ExecutionContext,
  options: TestPairOptions,
  body: (pair: PairLab) => Promise<void>,
): Promise<void> {
  const secondaryFlags = ['--peer', NOBODY, ...(options.secondaryFlags ?? [])];
  await withPairLab(t, { ...options, peer: NOBODY, secondaryFlags }, async (pair) => {
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitGuest();
    await body(pair);
  });
}

/** Fills guest memory; `check` reads all of it again, and compares. */
export async function fillMemory(
  pair: PairLab,
): Promise<{ check(t: ExecutionContext): Promise<void> }> {
  const pattern = await GuestPattern.fill(pair);
  const check = async (t: ExecutionContext): Promise<void> => {
    t.true(await pattern.isWhole(), 'memory is not what it was');
  };
  return { check };
}
