/** The SVM in the simulation, with everything that belongs to it. */
import type { DeviceState, GuestState, ModelGuest } from './guest.js';
import type { BufferedDisk, LayeredCells } from './layers.js';
import type { SvmNetwork } from './svm-network.js';

/** What has arrived of RAM and devices of one epoch. */
export interface Arrived {
  readonly pages: Map<number, number>;
  epoch: number | undefined;
  frames: number;
  pageCount: number;
  digest: number;
  device: DeviceState | undefined;
}

/** The SVM with everything that belongs to it; a new one for each session. */
export interface Svm {
  readonly guest: ModelGuest;
  readonly ram: LayeredCells;
  readonly disks: readonly BufferedDisk[];
  readonly lan: SvmNetwork;
  arrived: Arrived;
  /** Committed and not applied yet. */
  committed: { readonly epoch: number; readonly arrived: Arrived } | undefined;
  /** The newest epoch that is whole in RAM cache, image and devices. */
  appliedEpoch: number | undefined;
  applying: boolean;
  /** The images are not what they were before the session. */
  overwritten: boolean;
  /** The guard has been told of the first commit. */
  stands: boolean;
  /** The device state that was loaded last; a running SVM has its own by now. */
  appliedDevice: DeviceState;
  /** It has executed since the last apply. */
  ran: boolean;
}

export function nothingArrived(): Arrived {
  return {
    pages: new Map(),
    epoch: undefined,
    frames: 0,
    pageCount: 0,
    digest: 0,
    device: undefined,
  };
}

/** What a failover continues from once `epoch` is applied. */
export function prospect(svm: Svm, epoch: number): GuestState {
  const pages = [...svm.ram.bases];
  for (const [page, value] of svm.committed?.arrived.pages ?? []) pages[page] = value;
  return {
    pages,
    device: svm.committed?.arrived.device ?? svm.appliedDevice,
    disks: svm.disks.map((disk) => disk.prospect(epoch)),
  };
}

/** A sabotage: what the SVM has done since the last checkpoint is undone. */
export function rollBack(svm: Svm): void {
  svm.ram.dropOwn();
  svm.guest.loadDevice(svm.appliedDevice);
  for (const disk of svm.disks) disk.dropOwn();
}
