/** An image on a file system without room: who else has the guest goes on, else the guest waits. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { GuestControl } from '../../scripts/harness/guest-control.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { GUEST_ADDRESS, type HostName } from '../../scripts/harness/lab.js';
import { PairLab } from '../../scripts/harness/pair-lab.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
/** The image has some 180 MiB in it, and the guest's test file is 256 MiB: that does not fit. */
const SMALL = '320m';
const ENOUGH = '1g';
/** Writes the whole test file, then a moment of load. */
const FILL = 'disk rand 1 8';

test.serial('a full image on the primary hands the guest over, and nothing is lost', async (t) => {
  await withSmallImage('hosta', async (pair, guest) => {
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitProtected();
    await pair.waitGuest();
    t.regex(await guest().command(FILL), /^read=/);
    const status = await pair.waitStatus('hostb', 'it runs the guest', ({ state }) => {
      return state === 'active';
    });
    t.is(status.role, 'primary');
  });
});

test.serial('a full image on the secondary leaves the guest with the primary', async (t) => {
  await withSmallImage('hostb', async (pair, guest) => {
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitProtected();
    await pair.waitGuest();
    t.regex(await guest().command(FILL), /^read=/);
    await pair.waitStatus('hosta', 'the secondary is told to be unfit', ({ lastFailure }) => {
      return lastFailure?.includes('unfit') === true;
    });
    t.is((await pair.status('hosta')).role, 'primary');
  });
});

test.serial('a guest that nobody else has waits for room and runs on', async (t) => {
  await withSmallImage('hosta', async (pair, guest, grow) => {
    await pair.startPrimary();
    await pair.waitGuest();
    const filling = guest().command(FILL);
    await pair.waitStatus('hosta', 'the failure is told', ({ lastFailure }) => {
      return lastFailure?.includes('waits for its disk') === true;
    });
    grow();
    t.regex(await filling, /^read=/);
    await pair.waitStatus('hosta', 'nothing is told any more', ({ lastFailure }) => {
      return lastFailure?.includes('waits for its disk') !== true;
    });
  });
});

/** A lab, one of whose hosts has its image on a tmpfs that is too small; gone afterwards. */
async function withSmallImage(
  host: HostName,
  body: (pair: PairLab, guest: () => GuestControl, grow: () => void) => Promise<void>,
): Promise<void> {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    const imageDirectory = mkdtempSync(join(tmpdir(), 'colo-disk-failure-'));
    cleanup.add('image directory', async () => rmSync(imageDirectory, { recursive: true }));
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${SMALL}`, 'colo-test', imageDirectory]);
    cleanup.add('mount', async () => void execFileSync('umount', ['--lazy', imageDirectory]));
    const grow = (): void => {
      execFileSync('mount', ['-o', `remount,size=${ENOUGH}`, imageDirectory]);
    };
    const pair = await PairLab.up(
      {
        root: ROOT,
        guest: await guestFiles(ROOT),
        memoryMib: 256,
        periodMs: 200,
        primaryFlags: ['--peer-timeout', '3s'],
        ...(host === 'hosta' ? { imageDirectory } : {}),
        secondaryFlags: [
          ...['--peer-timeout', '3s'],
          ...(host === 'hostb' ? ['--disk-dir', imageDirectory] : []),
        ],
      },
      cleanup,
    );
    const guest = (): GuestControl => {
      const control = new GuestControl({
        enter: pair.lab.client.enter,
        buildDir: pair.buildDir,
        host: GUEST_ADDRESS,
        logPath: join(pair.directory, 'clients.log'),
      });
      cleanup.add('guest control', async () => control.close());
      return control;
    };
    await body(pair, guest, grow);
  } finally {
    await cleanup.run();
    stopListening();
  }
}
