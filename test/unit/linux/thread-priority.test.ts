import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import test from 'ava';
import { setShortSlice, setUrgent, sliceOf } from '../../../src/linux/index.js';

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

test.serial(
  'a thread that works for moments asks for short slices, and stays a normal one',
  (t) => {
    const usual = ofThisThread();
    const before = sliceOf();
    t.true(setShortSlice());
    t.true(setShortSlice(), 'twice is once');
    t.deepEqual(ofThisThread(), usual);
    if (before === undefined) {
      t.log('this kernel has one slice for all normal threads (Linux 6.12 has others)');
      return;
    }
    t.is(sliceOf(), 100_000);
  },
);

test.serial('of a thread that is none, or a real-time one, it says that nothing changes', (t) => {
  t.false(setShortSlice(0x3fff_ffff));
  setUrgent(true);
  const isRealTime = ofThisThread().policy === 2;
  const changed = setShortSlice();
  setUrgent(false);
  if (isRealTime) t.false(changed);
  else t.log('real-time threads are not allowed here');
});
