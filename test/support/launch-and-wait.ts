/**
 * An agent for the tests: launches the boot-sector guest, prints QEMU's pid, and waits to be
 * killed.
 */
import { launchQemu } from '../../src/emulator/index.js';
import { silentLog, testMachine } from './emulator-subjects.js';

const directory = process.argv[2];
if (directory === undefined) throw new Error('usage: launch-and-wait <directory>');
const emulator = await launchQemu({
  definition: testMachine(directory),
  ramMapping: 'shared',
  diskSockets: [],
  nicFds: [],
  runtimeDir: directory,
  startPaused: false,
  log: silentLog,
});
console.log(emulator.description.pid);
