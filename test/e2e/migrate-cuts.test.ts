/**
 * A guest is moved there and back by postcopy, and in each move the network goes away once, at any
 * point: the move goes on, and no byte of the guest's memory is another one afterwards.
 *
 * `COLO_MIGRATION_CUTS=100` makes so many moves instead of a few; `COLO_MIGRATION_CUT_S=30` is the
 * longest time without network, `COLO_MIGRATION_SEED` repeats a run.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import type { HostName } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { Prng } from '../../src/lib/index.js';
import { fillMemory, killConnections, migrate, setLink, withMovable } from './migrate-harness.js';
import { controlGuest } from './pair-harness.js';

const MOVES = Number(process.env['COLO_MIGRATION_CUTS'] ?? 3);
const CUT_S_MAX = Number(process.env['COLO_MIGRATION_CUT_S'] ?? 12);
const SEED = Number(process.env['COLO_MIGRATION_SEED'] ?? randomInt(2 ** 31));
/** The rest of memory takes some seconds: most cuts are in the middle. */
const RATE = '16MiB';
const BEFORE_CUT_MS_MAX = 4_000;
/** What the guest writes all the while, and to how much of its memory. */
const LOAD_MIB_S = 8;
const LOAD_MIB = 16;
/** Each move, on a busy machine, besides its cut. */
const MOVE_MS_MAX = 120_000;

test.serial(`memory survives a cut in each of ${MOVES} postcopies`, async (t) => {
  t.timeout(60_000 + MOVES * (MOVE_MS_MAX + CUT_S_MAX * 1000));
  const prng = new Prng(SEED);
  t.log(`COLO_MIGRATION_SEED=${SEED}`);
  // Memory that a host has kept would make the ways back too short to be cut.
  const flags = ['--keep-ram', 'off'];
  await withMovable(t, { primaryFlags: flags, secondaryFlags: flags }, async (pair) => {
    const memory = await fillMemory(pair);
    const control = controlGuest(pair);
    await control.command(`scribble ${LOAD_MIB_S} ${LOAD_MIB}`);
    control.close();
    for (let move = 0; move < MOVES; move += 1) {
      const [from, to]: [HostName, HostName] =
        move % 2 === 0 ? ['hosta', 'hostb'] : ['hostb', 'hosta'];
      if (move > 0) await (to === 'hosta' ? pair.startWaiting() : pair.startSecondary());
      const outcome = migrate(pair, from, to, ['--postcopy', '--max-bandwidth', RATE]);
      await pair.waitStatus(to, 'the guest runs there', ({ migration }) => {
        return migration?.state === 'running';
      });
      await delay(prng.nextInt(0, BEFORE_CUT_MS_MAX));
      t.log(`${from} to ${to}: ${await cut(pair, prng)}`);
      await memory.check(t);
      const { code, out, err } = await outcome;
      t.is(code, 0, `${out}${err}`);
      await pair.waitEnded(from);
      await pair.waitStatus(to, 'it is the primary', ({ migration, state }) => {
        return migration === null && state !== 'receiving';
      });
    }
  });
});

/** Gives what it did. */
async function cut(pair: PairLab, prng: Prng): Promise<string> {
  if (prng.chance(0.25)) {
    await killConnections(pair);
    return 'connections killed';
  }
  const ms = prng.nextInt(1, CUT_S_MAX * 1000);
  await setLink(pair, 'down');
  await delay(ms);
  await setLink(pair, 'up');
  return `no network for ${ms} ms`;
}
