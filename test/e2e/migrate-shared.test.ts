/**
 * A guest whose disk both hosts have moves: nothing of the disk is sent, exactly one host uses it
 * at any time, and no other storage is taken for it.
 */
import { execFile } from 'node:child_process';
import { copyFile, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { CLIENT_NAMES } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';
import type { Kill } from '../../scripts/migration-run/cells.js';
import { killRound } from '../../scripts/migration-run/kill-round.js';
import { Prng } from '../../src/lib/index.js';
import { colo, migrate, type Outcome, speakers, withMovable } from './migrate-harness.js';
import { withContext } from './migration-context.js';
import { assertNothingLost, startClients } from './pair-harness.js';

const SUCCESSES_AFTER = 5;
/** Pages take some seconds. */
const RATE = '8MiB';
/** On the guest's disk, read anew from there. */
const DATA = '/root/shared-data';
const SUM = `echo 3 > /proc/sys/vm/drop_caches; sha256sum ${DATA}`;

test.serial('a guest under load moves there and back, and its shared disk stays', async (t) => {
  await withMovable(t, { primaryFlags: ['--verify'], disk: 'shared' }, async (pair) => {
    const sum = await onGuest(pair, `head -c 24M /dev/urandom > ${DATA} && sync && ${SUM}`);
    const clients = await startClients(pair, { clients: CLIENT_NAMES });
    await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: 0, count: SUCCESSES_AFTER });
    for (const [from, to, method] of [
      ['hosta', 'hostb', []],
      ['hostb', 'hosta', ['--postcopy']],
    ] as const) {
      if (to === 'hosta') await pair.startWaiting();
      const atUs = nowUs();
      moved(t, await migrate(pair, from, to, method));
      await pair.waitEnded(from);
      await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: atUs, count: SUCCESSES_AFTER });
      t.is(await onGuest(pair, SUM), sum);
    }
    assertNothingLost(t, await clients.stop());
    await pair.waitStatus('hosta', 'it is the primary', ({ role, migration }) => {
      return role === 'primary' && migration === null;
    });
    const control = pair.control();
    control.command('poweroff').catch(() => undefined);
    t.is(await pair.ended('hosta'), 0);
    control.close();
    await t.notThrowsAsync(promisify(execFile)('e2fsck', ['-fn', pair.imagePath]));
  });
});

test.serial(
  'another storage is refused by the name of the disk, and cancelling is safe',
  async (t) => {
    await withMovable(t, { disk: 'shared' }, async (pair) => {
      const there = join(pair.directory, 'hostb', 'images');
      await rm(there);
      const nothing = await migrate(pair, 'hosta', 'hostb', []);
      t.not(nothing.code, 0);
      t.regex(
        nothing.err,
        /disk root: shared=on, .*root\.img.*mount the same storage on both hosts/,
      );
      // A copy is not it.
      await promisify(execFile)('mkdir', [there]);
      await copyFile(pair.imagePath, join(there, 'root.img'));
      const copy = await migrate(pair, 'hosta', 'hostb', []);
      t.not(copy.code, 0);
      t.regex(copy.err, /disk root: .*which the source has written, is not in/);
      await rm(there, { recursive: true });
      await promisify(execFile)('ln', ['-s', dirname(pair.imagePath), there]);
      const slowly = migrate(pair, 'hosta', 'hostb', ['--max-bandwidth', RATE]);
      await pair.waitStatus('hosta', 'pages are sent', ({ migration }) => {
        return migration?.state === 'precopy' && migration.sentBytes > 0;
      });
      t.is((await colo(pair, 'hosta', ['migrate-cancel'])).code, 0);
      t.not((await slowly).code, 0);
      t.deepEqual(await speakers(pair), ['hosta']);
      await onGuest(pair, `echo more > ${DATA} && sync`);
      moved(t, await migrate(pair, 'hosta', 'hostb', []));
      t.is(await onGuest(pair, `echo 3 > /proc/sys/vm/drop_caches; cat ${DATA}`), 'more');
      t.deepEqual(await readdir(dirname(pair.imagePath)), ['root.img']);
      const { code, err } = await colo(pair, 'hostb', ['attach']);
      t.not(code, 0);
      t.regex(err, /its disks are shared \(root\)/);
    });
  },
);

for (const kill of [
  { side: 'source', stage: 'given-up' },
  { side: 'destination', stage: 'loading' },
  { side: 'destination', stage: 'owns' },
] as const satisfies readonly Kill[]) {
  test.serial(`the ${kill.side} dies at ${kill.stage} of a move with a shared disk`, async (t) => {
    await withContext(
      t,
      async (context) => {
        const result = await killRound(context, { kill, round: 1, prng: new Prng(1) });
        t.log(JSON.stringify(result));
        t.deepEqual(result.problems, []);
      },
      'shared',
    );
  });
}

function moved(t: ExecutionContext, { code, out, err }: Outcome): void {
  t.log(`${out.trim()} ${err.trim().split('\n').at(-1)}`);
  t.is(code, 0, `${out}${err}`);
}

async function onGuest(pair: PairLab, command: string): Promise<string> {
  const control = pair.control();
  try {
    return (await control.exec(command)).trim();
  } finally {
    control.close();
  }
}
