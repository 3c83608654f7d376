/**
 * Where a host keeps the RAM of a guest that was moved away from it: a folder of the VM's own in
 * the state directory, as only one agent works on a store at a time.
 */
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Configuration } from '../config/index.js';
import { describeError, type Logger } from '../lib/index.js';
import { RamImageStore } from '../migration/index.js';

/** What is needed of a configuration. */
export type KeptRamPlace = Pick<Configuration, 'stateDir' | 'vm' | 'keepRamBytes' | 'keepRamAgeUs'>;

/** Part of the free space that an image may take: others need the state directory, too. */
const SHARE_OF_FREE = 0.5;

/** The store, for reading and for removing; `bytesMax` bounds what is written. */
export function keptRamStore(place: KeptRamPlace, bytesMax = place.keepRamBytes): RamImageStore {
  const directory = join(place.stateDir, `${place.vm}.kept-ram`);
  return new RamImageStore({ directory, bytesMax, ageMaxMs: place.keepRamAgeUs / 1000 });
}

/** Bytes that an image may take: what is configured, and not more than the disk can spare. */
export async function roomForKeptRam(place: KeptRamPlace): Promise<number> {
  if (place.keepRamBytes === 0) return 0;
  const { bavail, bsize } = await statfs(place.stateDir);
  return Math.min(place.keepRamBytes, Math.floor(bavail * bsize * SHARE_OF_FREE));
}

/** Removes what is too old, or not wanted any more. Never rejects: nothing depends on it. */
export async function sweepKeptRam(place: KeptRamPlace, log: Logger): Promise<void> {
  try {
    await keptRamStore(place).sweep();
  } catch (error) {
    log.warn('Memory that was kept of a guest stays', { reason: describeError(error) });
  }
}
