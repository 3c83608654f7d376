/**
 * One load of the bench in a process of its own, inside the client's namespace:
 * `node worker.js <load> <host> <seconds> <concurrency>`; prints its result as one line of JSON.
 */
import { describeError } from '../../src/lib/index.js';
import { LOADS, type LoadName } from './loads.js';

const [name = '', host = '', seconds = '', concurrency = ''] = process.argv.slice(2);
LOADS[name as LoadName]({ host, seconds: Number(seconds), concurrency: Number(concurrency) }).then(
  (result) => process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0)),
  (error: unknown) => {
    process.stderr.write(`${name} against ${host}: ${describeError(error)}\n`);
    process.exit(1);
  },
);
