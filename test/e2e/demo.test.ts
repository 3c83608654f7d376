/** The demo's own verdict, once for every fault; `scripts/demo --repeat` does it more often. */
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { parseOptions } from '../../scripts/demo-run/options.js';
import { runDemo } from '../../scripts/demo-run/run.js';
import { Timeline } from '../../scripts/demo-run/timeline.js';
import { FAULTS } from '../../scripts/demo-run/verdict.js';
import { Cleanup } from '../../scripts/harness/cleanup.js';
import { guestFiles } from '../../scripts/harness/guest-files.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

for (const fault of FAULTS) {
  test(`clients lose nothing at the fault "${fault}"`, async (t) => {
    const cleanup = new Cleanup();
    const stopListening = cleanup.onSignals();
    const options = parseOptions(['--fault', fault, '--duration', '8']);
    try {
      const guest = await guestFiles(root);
      const timeline = new Timeline(false);
      const result = await runDemo({ root, guest, options, timeline, cleanup });
      t.log(JSON.stringify(result));
      // How long an outage may be is the demo's and the bench's to judge, on a machine at rest.
      t.is(result.acknowledgedWritesLost, 0);
      t.is(result.streamGaps, 0);
      t.is(result.streamRepeats, 0);
      t.is(result.connectionsLost, 0);
      t.true(result.checkpoints > 0);
    } finally {
      await cleanup.run();
      stopListening();
    }
  });
}
