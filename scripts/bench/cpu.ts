/**
 * CPU time of processes, from /proc: who works how much during a load. A load generator that fills
 * a core measures itself.
 */
import { readFileSync } from 'node:fs';
import type { Namespace } from '../harness/lab.js';

/** Linux tells these times in hundredths of a second on every machine. */
const TICKS_PER_SECOND = 100;

/** CPU seconds that what runs in a namespace has used so far; what has ended is not counted. */
export async function cpuSeconds(place: Namespace): Promise<number> {
  const pids = await place.pids();
  return pids.reduce((sum, pid) => sum + secondsOf(pid), 0);
}

/** proc(5), /proc/pid/stat: utime and stime are fields 14 and 15; the name may hold anything. */
function secondsOf(pid: number): number {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    // It has ended.
    return 0;
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
