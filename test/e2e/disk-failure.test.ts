/**
 * An image on a file system that has no room, or does not answer: who else has the guest goes on;
 * if nobody has, the guest waits.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { GuestControl } from '../../scripts/harness/guest-control.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { GUEST_ADDRESS, type HostName } from '../../scripts/harness/lab.js';
import { PairLab, type PairOptions } from '../../scripts/harness/pair-lab.js';

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
    const status = await pair.waitStatus('hostb', 'it runs the guest', ({ role }) => {
      return role === 'primary';
    });
    t.is(status.role, 'primary');
  });
});

test.serial('an image that hangs on the primary hands the guest over', async (t) => {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    const directory = mkdtempSync(join(tmpdir(), 'colo-disk-failure-'));
    cleanup.add('image directory', async () => rmSync(directory, { recursive: true }));
    const device = join(directory, 'device');
    const imageDirectory = join(directory, 'mounted');
    mkdirSync(imageDirectory);
    execFileSync('truncate', ['--size', ENOUGH, device]);
    execFileSync('mkfs.ext4', ['-q', '-F', device]);
    execFileSync('mount', ['-o', 'loop', device, imageDirectory]);
    cleanup.add('mount', async () => void execFileSync('umount', ['--lazy', imageDirectory]));
    const pair = await PairLab.up(await pairOptions({ imageDirectory }), cleanup);
    // Before anything is killed: what waits for a frozen file system can't be.
    const thaw = (): void => void spawnSync('fsfreeze', ['--unfreeze', imageDirectory]);
    cleanup.add('freeze', async () => thaw());
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitProtected();
    await pair.waitGuest();
    const control = controlOf(pair, cleanup);
    execFileSync('fsfreeze', ['--freeze', imageDirectory]);
    const filling = control.command(FILL);
    await pair.waitStatus('hostb', 'it runs the guest', ({ role }) => role === 'primary');
    thaw();
    t.regex(await filling, /^read=/);
  } finally {
    await cleanup.run();
    stopListening();
  }
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
    const place = host === 'hosta' ? { imageDirectory } : { diskDirectory: imageDirectory };
    const pair = await PairLab.up(await pairOptions(place), cleanup);
    await body(pair, () => controlOf(pair, cleanup), grow);
  } finally {
    await cleanup.run();
    stopListening();
  }
}

/** Where hosta's image is, or hostb's. */
interface ImagePlace {
  readonly imageDirectory?: string;
  readonly diskDirectory?: string;
}

async function pairOptions({ imageDirectory, diskDirectory }: ImagePlace): Promise<PairOptions> {
  const patient = ['--peer-timeout', '3s'];
  return {
    root: ROOT,
    guest: await guestFiles(ROOT),
    memoryMib: 256,
    periodMs: 200,
    primaryFlags: patient,
    secondaryFlags:
      diskDirectory === undefined ? patient : [...patient, '--disk-dir', diskDirectory],
    ...(imageDirectory === undefined ? {} : { imageDirectory }),
  };
}

/** The guest must be up. */
function controlOf(pair: PairLab, cleanup: Cleanup): GuestControl {
  const control = new GuestControl({
    enter: pair.lab.client.enter,
    buildDir: pair.buildDir,
    host: GUEST_ADDRESS,
    logPath: join(pair.directory, 'clients.log'),
  });
  cleanup.add('guest control', async () => control.close());
  return control;
}
