/**
 * After a failover the way back transfers what has changed, not the disk, and the guest serves
 * meanwhile. By hand with a larger disk: COLO_WAY_BACK_MIB=4096.
 */
import { randomFillSync } from 'node:crypto';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { CLIENT_NAMES } from '../../scripts/clients/client.js';
import { nowUs } from '../../scripts/clients/clock.js';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';
import { PairLab } from '../../scripts/harness/pair-lab.js';
import { assertNothingLost, controlGuest, startClients } from './pair-harness.js';

const MIB = 1 << 20;
const ROOT = new URL('../../../', import.meta.url).pathname;
const DISK_MIB = Number(process.env['COLO_WAY_BACK_MIB'] ?? 512);
/** Of 4 GiB it is 50 MiB. */
const CHANGED_MIB = Math.floor((DISK_MIB * 50) / 4096);
/** Of 4 GiB it is 80 MiB: what the guest writes to its other disk meanwhile is not counted. */
const TRANSFERRED_MIB_MAX = (DISK_MIB * 80) / 4096;

/** No zeroes, and no two clusters alike: nothing can be saved but by knowing what has changed. */
async function writeRandomImage(path: string): Promise<void> {
  const file = await open(path, 'wx');
  const piece = Buffer.allocUnsafe(16 * MIB);
  for (let written = 0; written < DISK_MIB; written += 16) {
    await file.write(randomFillSync(piece));
  }
  await file.close();
}

/** What the log of a host says of the last synchronisation of a disk. */
async function lastSynchronisation(pair: PairLab, disk: string) {
  const text = await readFile(pair.logPath('hostb'), 'utf8');
  const lines = text.split('\n').filter((line) => line.includes(`Disk synchronised disk=${disk}`));
  const figure = (name: string): number =>
    Number(new RegExp(`${name}=(\\d+)`).exec(lines.at(-1) ?? '')?.[1] ?? Number.NaN);
  return { candidates: figure('candidates'), sentBytes: figure('sentBytes') };
}

test('the way back after a failover transfers what has changed', async (t) => {
  const cleanup = new Cleanup();
  const stopListening = cleanup.onSignals();
  try {
    const guest = await guestFiles(ROOT);
    const directory = await mkdtemp('/tmp/colo-way-back-');
    cleanup.add('data image', () => rm(directory, { recursive: true, force: true }));
    const dataPath = join(directory, 'data.img');
    await writeRandomImage(dataPath);
    const patient = ['--peer-timeout', '3s'];
    const pair = await PairLab.up(
      {
        ...{ root: ROOT, guest, memoryMib: 256, periodMs: 1000, mode: 'colo' },
        ...{ primaryFlags: [...patient, '--disk', `data=${dataPath}`], secondaryFlags: patient },
      },
      cleanup,
    );
    await pair.startSecondary();
    await pair.startPrimary();
    await pair.waitProtected();
    await pair.waitGuest();
    const clients = await startClients(pair, { clients: CLIENT_NAMES });
    await pair.kill('hosta');
    await pair.waitStatus('hostb', 'it took over', ({ role }) => role === 'primary');
    const control = controlGuest(pair);
    const write = `dd if=/dev/urandom of=/dev/vdb bs=1M count=${CHANGED_MIB} seek=7 conv=fsync,notrunc`;
    await control.exec(`${write} 2>/dev/null`);
    control.close();
    const returnedUs = nowUs();
    await pair.restart('hosta');
    await pair.waitProtected(undefined, 'hostb');
    const seconds = (nowUs() - returnedUs) / 1e6;
    await clients.waitSuccesses({ names: CLIENT_NAMES, afterUs: returnedUs, count: 5 });
    const { candidates, sentBytes } = await lastSynchronisation(pair, 'data');
    t.log(
      `${DISK_MIB} MiB, ${CHANGED_MIB} MiB changed: ${candidates} clusters were compared, ` +
        `${(sentBytes / MIB).toFixed(1)} MiB sent; protected again after ${seconds.toFixed(1)} s`,
    );
    t.true(sentBytes >= CHANGED_MIB * MIB);
    t.true(sentBytes <= TRANSFERRED_MIB_MAX * MIB);
    assertNothingLost(t, await clients.stop());
    // And what the returned host has now is what the guest wrote.
    await pair.kill('hostb');
    await pair.waitStatus('hosta', 'it took over again', ({ role }) => role === 'primary');
    const image = await open(join(pair.directory, 'hostb', 'state', 'demo-data.img'));
    const other = await open(dataPath);
    const pieces = [Buffer.alloc(MIB), Buffer.alloc(MIB)] as const;
    for (let at = 0; at < DISK_MIB * MIB; at += MIB) {
      await image.read(pieces[0], 0, MIB, at);
      await other.read(pieces[1], 0, MIB, at);
      if (!pieces[0].equals(pieces[1])) t.fail(`The images differ at ${at}`);
    }
    await image.close();
    await other.close();
  } finally {
    await cleanup.run();
    stopListening();
  }
});
