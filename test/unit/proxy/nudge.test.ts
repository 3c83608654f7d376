/**
 * What Linux' own TCP makes of a nudge, at either end of a connection. Each test runs a scenario of
 * nudge-child.ts in a network namespace that lives as long as that process.
 */
import { observeInNamespace, testInNamespaces } from '../../support/namespace.js';

const test = testInNamespaces('nudge');
const CHILD = new URL('./nudge-child.js', import.meta.url);

for (const version of ['4', '6']) {
  for (const kernel of ['remote', 'guest']) {
    test(`IPv${version}: Linux as the ${kernel} sends at once, not when its timer is over`, async (t) => {
      const seen = await observeInNamespace(CHILD, kernel, version);
      const intervals = seen['intervals'] as number[];
      t.log(`ms between its transmissions: ${intervals.join(', ')}`);
      t.is(seen['quoted'], 0);
      const last = intervals.at(-2) ?? 0;
      t.true(last > (intervals.at(-3) ?? 0) * 1.5, 'its timer has backed off');
      t.true((intervals.at(-1) ?? 0) < last, 'and does so no more');
      // The keep-alive: it says what it has, and nothing of what it said is taken back.
      if (kernel === 'guest') t.deepEqual(seen['answered'], { seq: 11, ack: 1 });
    });
  }
}
