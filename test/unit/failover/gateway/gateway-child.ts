/**
 * Pings this network namespace's own address while the interface goes up and down, and prints what
 * it saw. The namespace is the caller's. Argument: the address.
 */
import { execFileSync } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { GatewayProbe } from '../../../../src/failover/index.js';

const address = process.argv[2] ?? '';
const seen: boolean[] = [];
const changes = new EventEmitter();
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

function ip(command: string): void {
  execFileSync('ip', command.split(' '), { stdio: 'inherit' });
}

const probe = new GatewayProbe({
  address,
  log: quiet,
  onChange(reachable) {
    seen.push(reachable);
    changes.emit('change');
  },
});
for (const state of ['up', 'down', 'up']) {
  const changed = once(changes, 'change');
  ip(`link set lo ${state}`);
  await changed;
}
probe.stop();
process.stdout.write(`${JSON.stringify(seen)}\n`);
