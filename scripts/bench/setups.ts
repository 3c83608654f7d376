/**
 * The ways in which the bench runs the same guest in the same lab: unprotected; by an agent that
 * has no secondary (alone); two unprotected guests at once, one on each host; protected.
 */
import { accessSync, constants, mkdtempSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import type { Cleanup } from '../harness/cleanup.js';
import { GuestControl, waitGuest } from '../harness/guest-control.js';
import type { GuestFiles } from '../harness/guest-files.js';
import { GUEST_ADDRESS, GUEST_MAC, Lab } from '../harness/lab.js';
import type { Mode } from '../harness/modes.js';
import { PairLab } from '../harness/pair-lab.js';
import { startPlainGuest } from '../harness/plain-guest.js';
import type { SetupName } from './rows.js';

const SECOND_ADDRESS = '10.77.0.11';
const SECOND_MAC = '52:54:00:c0:10:02';

export interface SetupOptions {
  readonly root: string;
  readonly buildDir: string;
  readonly guest: GuestFiles;
  readonly memoryMib: number;
  readonly periodMs: number;
  readonly mode: Mode;
}

/** A guest, or two, ready for load. */
export interface Setup {
  readonly name: SetupName;
  readonly lab: Lab;
  /** Prefix that enters the client's namespace. */
  readonly enter: readonly string[];
  /** Addresses of the guests: all of them get the same load at the same time. */
  readonly hosts: readonly string[];
  /** A control connection to each guest. */
  readonly controls: readonly GuestControl[];
  readonly logPath: string;
  /** The agents, if there are any. */
  readonly pair?: PairLab;
}

/** KVM where it is real, else TCG; a software KVM without vmx or svm is slower than TCG. */
export function chooseAccelerator(): 'kvm' | 'tcg' {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg';
  }
  return /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'latin1')) ? 'kvm' : 'tcg';
}

/** Brings a set-up up; the cleanup takes it down. */
export async function bringUp(
  name: SetupName,
  options: SetupOptions,
  cleanup: Cleanup,
): Promise<Setup> {
  return name === 'protected' || name === 'alone'
    ? bringUpAgents(name, options, cleanup)
    : bringUpPlain(name, options, cleanup);
}

async function bringUpAgents(
  name: 'alone' | 'protected',
  options: SetupOptions,
  cleanup: Cleanup,
): Promise<Setup> {
  const { root, guest, memoryMib, periodMs, mode } = options;
  const primaryFlags = ['--accel', chooseAccelerator()];
  const pair = await PairLab.up({ root, guest, memoryMib, periodMs, mode, primaryFlags }, cleanup);
  if (name === 'protected') await pair.startSecondary();
  await pair.startPrimary();
  if (name === 'protected') await pair.waitProtected();
  await pair.waitGuest();
  const place = {
    lab: pair.lab,
    enter: pair.lab.client.enter,
    buildDir: options.buildDir,
    logPath: `${pair.directory}/clients.log`,
  };
  const control = new GuestControl({ ...place, host: GUEST_ADDRESS });
  cleanup.add('guest control', () => control.close());
  return { name, hosts: [GUEST_ADDRESS], controls: [control], pair, ...place };
}

async function bringUpPlain(
  name: 'unprotected' | 'contended',
  options: SetupOptions,
  cleanup: Cleanup,
): Promise<Setup> {
  const directory = mkdtempSync('/tmp/colo-bench-');
  cleanup.add('temporary files', () => rm(directory, { recursive: true, force: true }));
  const lab = await Lab.up(options.root, cleanup);
  const place = {
    lab,
    enter: lab.client.enter,
    buildDir: options.buildDir,
    logPath: `${directory}/clients.log`,
  };
  const common = {
    directory,
    guest: options.guest,
    memoryMib: options.memoryMib,
    accelerator: chooseAccelerator(),
  };
  const hosts = name === 'contended' ? [SECOND_ADDRESS, GUEST_ADDRESS] : [GUEST_ADDRESS];
  const controls: GuestControl[] = [];
  for (const address of hosts) {
    // The second guest boots first, with the address of the first, and moves away from it.
    const [host, mac] =
      address === GUEST_ADDRESS ? [lab.hosta, GUEST_MAC] : [lab.hostb, SECOND_MAC];
    const qemu = await startPlainGuest({ ...common, host, mac });
    cleanup.add(`QEMU on ${host.name}`, async () => {
      qemu.kill('SIGKILL');
      await qemu.ended;
    });
    await waitGuest({ ...place, host: GUEST_ADDRESS });
    if (address === SECOND_ADDRESS) await moveAddress(place);
    const control = new GuestControl({ ...place, host: address });
    cleanup.add('guest control', () => control.close());
    controls.push(control);
  }
  return { name, hosts, controls, ...place };
}

/** Gives a freshly booted guest the second address instead of the first. */
async function moveAddress(
  place: Omit<ConstructorParameters<typeof GuestControl>[0], 'host'>,
): Promise<void> {
  const before = new GuestControl({ ...place, host: GUEST_ADDRESS });
  await before.exec('echo 1 >/proc/sys/net/ipv4/conf/all/promote_secondaries');
  await before.exec(`ip address add ${SECOND_ADDRESS}/24 dev eth0`);
  before.close();
  const after = new GuestControl({ ...place, host: SECOND_ADDRESS });
  await after.exec(
    `ip address del ${GUEST_ADDRESS}/24 dev eth0; ip address del fd77::10/64 dev eth0`,
  );
  after.close();
}
