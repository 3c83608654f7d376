/** The files behind guests' RAM, which have no names. */
import { readdir, readlink } from 'node:fs/promises';
import type { HostName } from '../../scripts/harness/lab.js';
import type { PairLab } from '../../scripts/harness/pair-lab.js';

/** By way of the open files of a host's processes; one that several have open comes several times. */
export async function ramFiles(pair: PairLab, host: HostName): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await pair.lab[host].pids()) {
    const folder = `/proc/${pid}/fd`;
    // A process may end meanwhile.
    for (const fd of await readdir(folder).catch(() => [])) {
      const target = await readlink(`${folder}/${fd}`).catch(() => '');
      if (target.startsWith('/memfd:colo-ram-')) found.push(`${folder}/${fd}`);
    }
  }
  return found;
}
