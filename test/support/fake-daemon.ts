/**
 * A daemon with a fake node behind the real main, run as a process by the daemon's tests:
 *
 *   node fake-daemon.js MODE --run-dir DIR ...
 *
 * MODE: run; finish (ends by itself, exit 1); hang-stop; hang-start; fail-start; bug-start;
 * bug-later.
 */

import { runDaemon } from '../../src/cli/index.js';
import type { RunningNode, SecondaryConfiguration } from '../../src/config/index.js';
import { AssertionFailed, ColoError } from '../../src/lib/index.js';
import { FakeNode } from './fake-node.js';

const [mode] = process.argv.splice(2, 1);
// Keeps the process alive like a real node's sockets do, but not longer than the test that started
// it, however that ends.
process.stdin.on('end', () => process.exit(99)).resume();

await runDaemon('secondary', async (_configuration: SecondaryConfiguration, logger) => {
  if (mode === 'hang-start') return await new Promise<RunningNode>(() => {});
  if (mode === 'fail-start') throw new ColoError('COLO_E_QEMU', 'QEMU is not there');
  if (mode === 'bug-start') throw new AssertionFailed('Two and two are five');
  let finish: (end: { exitCode: number; reason: string }) => void = () => {};
  const finished = new Promise<{ exitCode: number; reason: string }>((resolve) => {
    finish = resolve;
  });
  logger.setContext({ role: 'primary', epoch: 7 });
  logger.info('The node runs');
  if (mode === 'finish') finish({ exitCode: 1, reason: 'The guest ended' });
  if (mode === 'bug-later') {
    setImmediate(() => {
      throw new AssertionFailed('Two and two are five');
    });
  }
  return {
    control: new FakeNode(),
    finished,
    stop: async (reason) => {
      if (mode === 'hang-stop') return;
      finish({ exitCode: 0, reason: `Stopped by ${reason}` });
    },
  };
});
