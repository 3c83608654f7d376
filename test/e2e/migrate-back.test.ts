/**
 * A guest that comes back to a host that has kept its memory: only what it has written in between
 * crosses the network. COLO_BACK_MIB gives it another size.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { HostName } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import { MOUNT_NOISE, makeNoise, SUM_NOISE } from './guest-noise.js';
import { migrate, withMovable } from './migrate-harness.js';
import { controlGuest } from './pair-harness.js';

const MIB = 1024 ** 2;
const MEMORY_MIB = Number(process.env['COLO_BACK_MIB'] ?? '256');
/** Of the guest's memory: what is written before, beside what it uses itself. */
const USED = 0.35;
/** In between. */
const CHANGED = 0.05;
/** Of the guest's memory, on the network on its way back. */
const SENT_MAX = 0.1;
const DIGEST_BYTES = 16;
const PAGE_BYTES = 4096;

interface Way {
  readonly name: string;
  readonly there: readonly string[];
  readonly back: readonly string[];
  /** What the source says of how it knew what differs. */
  readonly how: 'known' | 'digests';
}

const WAYS: readonly Way[] = [
  { name: 'precopy twice, without digests', there: [], back: [], how: 'known' },
  { name: 'postcopy and precopy, by digests', there: ['--postcopy'], back: [], how: 'digests' },
  { name: 'precopy and postcopy', there: [], back: ['--postcopy'], how: 'known' },
];

for (const { name, there, back, how } of WAYS) {
  test.serial(`a guest that comes back brings only what it has changed: ${name}`, async (t) => {
    const options = { primaryFlags: ['--verify'], memoryMib: MEMORY_MIB };
    await withMovable(t, options, async (pair) => {
      const memory = MEMORY_MIB * MIB;
      const control = controlGuest(pair);
      await control.exec(MOUNT_NOISE);
      await control.exec(makeNoise(USED * memory, 'before'));
      const away = await moved(pair, 'hosta', 'hostb', there);
      t.log(`there: ${Math.round(away / MIB)} MiB`);
      t.true(away > SENT_MAX * memory, 'the first way would pass, too');
      const kept = await stat(join(pair.directory, 'hosta/state/demo.kept-ram/demo.ram'));
      t.is(kept.mode & 0o777, 0o600);

      await control.exec(makeNoise(CHANGED * memory, 'random'));
      const before = await control.exec(SUM_NOISE);

      await pair.startWaiting();
      const returned = await moved(pair, 'hostb', 'hosta', back);
      t.is(await control.exec(SUM_NOISE), before);
      control.close();
      const digests = how === 'digests' ? (memory / PAGE_BYTES) * DIGEST_BYTES : 0;
      t.log(`back: ${Math.round(returned / MIB)} MiB, digests ${digests} bytes`);
      t.true(returned + digests <= SENT_MAX * memory, `${returned} bytes of ${memory}`);

      const log = await readFile(pair.logPath('hostb'), 'utf8');
      const line = log.split('\n').find((text) => text.includes('has kept memory')) ?? '';
      t.regex(line, how === 'known' ? /known/ : /by their digests/);
      // What was kept is old now, and takes no room.
      const stale = join(pair.directory, 'hosta/state/demo.kept-ram/demo.ram');
      await t.throwsAsync(stat(stale), { code: 'ENOENT' });
    });
  });
}

/** Moves the guest; gives the bytes of its memory that were sent. */
async function moved(
  pair: PairLab,
  from: HostName,
  to: HostName,
  flags: readonly string[],
): Promise<number> {
  const { code, out, err } = await migrate(pair, from, to, [...flags, '--compress', 'off']);
  if (code !== 0) throw new Error(`${from} to ${to}: ${out}${err}`);
  await pair.waitEnded(from);
  await pair.waitStatus(to, 'it is the primary', ({ role, state }) => {
    return role === 'primary' && state !== 'receiving';
  });
  const log = await readFile(pair.logPath(from), 'utf8');
  const bytes = /The guest has been moved.*sentBytes=(\d+)/.exec(log)?.[1];
  if (bytes === undefined) throw new Error(`${from} does not say what it sent`);
  return Number(bytes);
}
