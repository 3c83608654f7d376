import test from 'ava';
import { OutputDeadline } from '../../../src/linux/index.js';

// What it does to frames: test/unit/proxy/nic-shell.test.ts.

const asRoot = process.getuid?.() === 0 ? test : test.skip;
if (asRoot === test.skip) console.error('output-deadline: skipped, BPF is for root');

asRoot('a device that is not there is told', (t) => {
  const deadline = OutputDeadline.create();
  t.throws(() => deadline.attach('colo-none', 0), { message: /rtnetlink failed: No such device/ });
  t.is(deadline.dropped(0), 0);
});

test('a descriptor that is none is told', (t) => {
  t.throws(() => OutputDeadline.ofFd(1_000_000), { message: /mmap failed/ });
});
