/** The probe on a real raw socket, in a network namespace that lives as long as its process. */
import { observeInNamespace, testInNamespaces } from '../../../support/namespace.js';

const test = testInNamespaces('gateway-probe');
const CHILD = new URL('./gateway-child.js', import.meta.url);

for (const address of ['127.0.0.1', '::1']) {
  test(`${address} is reachable while its interface is up, and only then`, async (t) => {
    const seen = await observeInNamespace<readonly boolean[]>(CHILD, address);
    t.deepEqual(seen, [true, false, true]);
  });
}
