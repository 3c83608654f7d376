/**
 * Who holds the lock of a file, for the message that refuses it.
 *
 * Source: proc_locks(5). A line: number, kind, mode, access, PID, `major:minor:inode` with the
 * device's numbers hexadecimal, range. `->` marks one that waits. Locks that belong to an open file
 * and not to a process (QEMU's own) have the PID -1, those of an invisible process 0.
 */
import { deviceNumbers } from './device-number.js';

/** The PIDs behind the locks on the file, each once; empty where the table does not tell. */
export function findLockOwners(
  table: string,
  file: { readonly device: number; readonly inode: number },
): number[] {
  const wanted = `${deviceName(file.device)}:${file.inode}`;
  const owners = new Set<number>();
  for (const line of table.split('\n')) {
    const [, kind, , , pid, place] = line.trim().split(/\s+/);
    const owner = Number(pid);
    if (kind !== '->' && place === wanted && owner > 0) owners.add(owner);
  }
  return [...owners];
}

/** `st_dev` as the kernel prints it there. */
function deviceName(device: number): string {
  const { major, minor } = deviceNumbers(device);
  return [major, minor].map((number) => number.toString(16).padStart(2, '0')).join(':');
}
