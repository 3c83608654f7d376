/** A guest that waits for its disk is resumed again and again until nothing fails any more. */
import test from 'ava';
import { DiskRetry } from '../../../../src/guest/index.js';
import { LogCollector } from '../../transport/support.js';

test('the guest is resumed until its request succeeds, and then nothing is told any more', async (t) => {
  const log = new LogCollector();
  let resumes = 0;
  const retry = new DiskRetry({
    guest: {
      async resume() {
        resumes += 1;
        // Twice it fails again, as QEMU tells it.
        if (resumes < 3) queueMicrotask(() => retry.failed('write of disk-root'));
      },
    },
    log,
    retryMs: 5,
  });
  t.is(retry.problem, null);
  retry.failed('write of disk-root');
  t.is(retry.problem, 'The guest waits for its disk: write of disk-root failed');
  await log.reached(2);
  t.is(resumes, 3);
  t.is(retry.problem, null);
  t.deepEqual(
    log.lines.map(({ level }) => level),
    ['error', 'info'],
  );
  retry.stop();
});

test('a resume that fails is tried again', async (t) => {
  const log = new LogCollector();
  let resumes = 0;
  const retry = new DiskRetry({
    guest: {
      async resume() {
        resumes += 1;
        if (resumes === 1) throw new Error('Not now');
      },
    },
    log,
    retryMs: 5,
  });
  retry.failed('read of disk-root');
  await log.reached(3);
  t.is(resumes, 2);
  t.is(retry.problem, null);
  retry.stop();
});
