/** What a source brings together while its guest is paused. */
import { crc32c } from '../lib/index.js';

export interface Collected {
  /** The last scan is in. */
  readonly scanned: boolean;
  readonly devices: Buffer | undefined;
  readonly ramDigest: number | undefined;
  readonly disks: boolean;
}

export const NOTHING_COLLECTED: Collected = {
  scanned: false,
  devices: undefined,
  ramDigest: undefined,
  disks: false,
};

/** Of a device state, as `switchover` has it. */
export function deviceDigest(bytes: Buffer): number {
  return crc32c(bytes);
}
