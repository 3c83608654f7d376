/** Carries the faults out, and mends whatever they left. */
import { join } from 'node:path';
import { nowUs } from '../clients/clock.js';
import { GuestControl } from '../harness/guest-control.js';
import { GUEST_ADDRESS, type HostName, signalAll } from '../harness/lab.js';
import type { Fault } from './cells.js';
import type { MatrixLab } from './matrix-lab.js';
import { WIRES } from './network.js';

const LOSS = 0.3;
const DELAY_MS = 300;
/** More than any image has left, and soon written. */
const GUEST_FILE = '/root/matrix-fill';
const GUEST_FILE_64K = 128;

/** Something that is broken; `mend` leaves processes that ended to their operator. */
export interface Broken {
  readonly atUs: number;
  readonly mend: () => Promise<void>;
}

/** On `host`. Resolves when the fault is there; `atUs` is not later than that. */
export async function breakIt(
  lab: MatrixLab,
  fault: Fault,
  { host, primary }: { readonly host: HostName; readonly primary: HostName },
): Promise<Broken> {
  const { pair, network, etcd } = lab;
  const mendNetwork = (): Promise<void> => network.mend();
  switch (fault) {
    case 'kill-agent': {
      const atUs = nowUs();
      pair.signalAgent(host, 'SIGKILL');
      return { atUs, mend: async () => {} };
    }
    case 'kill-qemu':
      return { atUs: await pair.signalQemu(host, 'SIGKILL'), mend: async () => {} };
    case 'stop-agent': {
      const atUs = nowUs();
      pair.signalAgent(host, 'SIGSTOP');
      return { atUs, mend: async () => pair.signalAgent(host, 'SIGCONT') };
    }
    case 'stop-qemu': {
      const atUs = nowUs();
      const pid = await pair.qemuPid(host);
      signalAll([pid], 'SIGSTOP');
      // A new one may run by then.
      return { atUs, mend: async () => void signalAll([pid], 'SIGCONT') };
    }
    case 'power-cut': {
      // The kernel lives on and would say goodbye for its dead processes.
      const atUs = nowUs();
      await Promise.all(WIRES.map((wire) => network.setWire(host, wire, 'down')));
      await pair.kill(host);
      return { atUs, mend: mendNetwork };
    }
    case 'link-cut':
      return cut(lab, host, 'repl0');
    case 'lan-cut':
      return cut(lab, host, 'lan0');
    case 'lan-silent': {
      const atUs = nowUs();
      await network.setLan(host, 'silent');
      return { atUs, mend: mendNetwork };
    }
    case 'etcd-cut':
      return cut(lab, host, 'witness0');
    case 'link-one-way':
      return spoil(lab, host, { loss: 1, delayMs: 0 });
    case 'link-loss':
      return spoil(lab, host, { loss: LOSS, delayMs: 0 });
    case 'link-delay':
      return spoil(lab, host, { loss: 0, delayMs: DELAY_MS });
    case 'etcd-stopped': {
      const atUs = nowUs();
      etcd.process.kill('SIGSTOP');
      return { atUs, mend: async () => void etcd.process.kill('SIGCONT') };
    }
    case 'disk-full':
      return fillDisk(lab, host, primary);
  }
}

/** The guest writes where its image has no page: what earlier rounds left there is given back. */
async function fillDisk(lab: MatrixLab, host: HostName, primary: HostName): Promise<Broken> {
  const { pair } = lab;
  const control = new GuestControl({
    enter: pair.lab.client.enter,
    buildDir: pair.buildDir,
    host: GUEST_ADDRESS,
    logPath: join(pair.directory, 'guest-control.log'),
  });
  try {
    await control.exec(`rm -f ${GUEST_FILE} && sync && fstrim /`);
    // The second one begins when the secondary's image has followed the first.
    for (let checkpoints = 0; checkpoints < 2; checkpoints++) await pair.checkpoint(primary);
    lab.fillDisk(host);
  } catch (error) {
    control.close();
    throw error;
  }
  const atUs = nowUs();
  // Whether the guest is told of a failure is for others to look at.
  const writing = control
    .exec(`dd if=/dev/urandom of=${GUEST_FILE} bs=64k count=${GUEST_FILE_64K} conv=fsync`)
    .catch(() => undefined);
  const mend = async (): Promise<void> => {
    lab.mendDisks();
    await writing;
    control.close();
  };
  return { atUs, mend };
}

async function cut(
  { network }: MatrixLab,
  host: HostName,
  wire: (typeof WIRES)[number],
): Promise<Broken> {
  const atUs = nowUs();
  await network.setWire(host, wire, 'down');
  return { atUs, mend: () => network.mend() };
}

async function spoil(
  { network }: MatrixLab,
  host: HostName,
  weather: Parameters<typeof network.spoil>[1],
): Promise<Broken> {
  const atUs = nowUs();
  await network.spoil(host, weather);
  return { atUs, mend: () => network.mend() };
}
