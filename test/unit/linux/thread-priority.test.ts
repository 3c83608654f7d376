import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import test from 'ava';
import { setUrgent } from '../../../src/linux/index.js';

/** proc_pid_stat(5): field 19 is the nice value, field 41 the scheduling policy. */
function scheduling(stat: string): { readonly nice: number; readonly policy: number } {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { nice: Number(fields[19 - 3]), policy: Number(fields[41 - 3]) };
}

const ofThisThread = () => scheduling(readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8'));

test.serial('an urgent thread goes before normal ones, and is one of them afterwards', (t) => {
  const usual = ofThisThread();
  setUrgent(true);
  const urgent = ofThisThread();
  setUrgent(true);
  t.deepEqual(ofThisThread(), urgent, 'twice is once');
  const child = scheduling(execFileSync('cat', ['/proc/self/stat'], { encoding: 'utf8' }));
  setUrgent(false);
  t.deepEqual(ofThisThread(), usual);
  const mayBeRealTime = process.getuid?.() === 0 && availableParallelism() > 1;
  if (!mayBeRealTime) {
    t.log('real-time threads are not allowed here');
    return;
  }
  t.is(urgent.policy, 2);
  t.is(child.policy, 0, 'what is started meanwhile is as usual');
});
