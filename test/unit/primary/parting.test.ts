/** A primary that lost its secondary is not heard before that is written down. */
import test from 'ava';
import { part } from '../../../src/primary/parting-shell.js';

test('it is tried until it is durable', async (t) => {
  let attempts = 0;
  const failures: string[] = [];
  const disks = {
    async beginAlone() {
      attempts += 1;
      if (attempts < 2) throw new Error('No space left');
    },
  };
  await part(disks, { isOver: () => false, onFailure: (reason) => failures.push(reason) });
  t.is(attempts, 2);
  t.deepEqual(failures, ['The records of the disks: No space left']);
});

test('a node that leaves does not wait for it', async (t) => {
  let isOver = false;
  const disks = {
    async beginAlone() {
      isOver = true;
      throw new Error('No space left');
    },
  };
  await t.notThrowsAsync(part(disks, { isOver: () => isOver, onFailure: () => undefined }));
});
