/**
 * Asks an agent again and again who it is, from before it listens on, to be run inside a namespace:
 *
 *   node probe-child.js HOST PORT
 *
 * Prints `asking`, then the first answer that there is, and ends.
 */
import { probePeer } from '../../src/transport/index.js';

const TIMEOUT_MS = 5000;

const [host = '', port = ''] = process.argv.slice(2);
process.stdout.write('asking\n');
for (;;) {
  const answer = await probePeer({ host, port: Number(port), timeoutMs: TIMEOUT_MS });
  if (['refused', 'unreachable', 'silent'].includes(answer)) continue;
  process.stdout.write(`${answer}\n`);
  break;
}
