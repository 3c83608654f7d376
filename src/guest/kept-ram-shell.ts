/**
 * Where a host keeps the RAM of a guest that was moved away from it: a folder of the VM's own in
 * the state directory, as only one agent works on a store at a time.
 */
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Configuration } from '../config/index.js';
import { RamImageStore } from '../migration/index.js';

type Place = Pick<Configuration, 'stateDir' | 'vm' | 'keepRamBytes' | 'keepRamAgeUs'>;

/** Part of the free space that an image may take: others need the state directory, too. */
const SHARE_OF_FREE = 0.5;

/** The store, for reading and for removing; `bytesMax` bounds what is written. */
export function keptRamStore(place: Place, bytesMax = place.keepRamBytes): RamImageStore {
  const directory = join(place.stateDir, `${place.vm}.kept-ram`);
  return new RamImageStore({ directory, bytesMax, ageMaxMs: place.keepRamAgeUs / 1000 });
}

/** Bytes that an image may take: what is configured, and not more than the disk can spare. */
export async function roomForKeptRam(place: Place): Promise<number> {
  if (place.keepRamBytes === 0) return 0;
  const { bavail, bsize } = await statfs(place.stateDir);
  return Math.min(place.keepRamBytes, Math.floor(bavail * bsize * SHARE_OF_FREE));
}
