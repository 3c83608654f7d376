import test from 'ava';
import { GatewayMonitor } from '../../../../src/failover/gateway/gateway-monitor.js';
import { GATEWAY_INTERVAL_US } from '../../../../src/failover/limits.js';

test('nothing is reachable before the first reply; five requests without one are too many', (t) => {
  const m = new GatewayMonitor(0);
  t.deepEqual(m.tick(0), [{ kind: 'send', sequence: 1 }]);
  t.false(m.reachable);
  t.deepEqual(m.tick(1), []);
  t.deepEqual(m.replied(), [{ kind: 'changed', reachable: true }]);
  t.deepEqual(m.replied(), []);
  for (let count = 1; count <= 5; count += 1) {
    t.deepEqual(m.tick(count * GATEWAY_INTERVAL_US), [{ kind: 'send', sequence: count + 1 }]);
  }
  t.deepEqual(m.tick(6 * GATEWAY_INTERVAL_US), [
    { kind: 'changed', reachable: false },
    { kind: 'send', sequence: 7 },
  ]);
});

test('a host that was stopped asks again before it judges', (t) => {
  const m = new GatewayMonitor(0);
  m.tick(0);
  m.replied();
  t.like(m.tick(3_600_000_000), [{ kind: 'send' }]);
  t.true(m.reachable);
});
