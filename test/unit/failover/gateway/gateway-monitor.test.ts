import test from 'ava';
import { GatewayMonitor } from '../../../../src/failover/gateway/gateway-monitor.js';
import { CARRIER_INTERVAL_US, GATEWAY_INTERVAL_US } from '../../../../src/failover/limits.js';

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

test('without a carrier nobody is waited for, and only an answer of afterwards counts', (t) => {
  const m = new GatewayMonitor(0);
  m.tick(0, true);
  m.replied();
  t.deepEqual(m.tick(CARRIER_INTERVAL_US, false), [], 'seen once');
  t.deepEqual(m.tick(2 * CARRIER_INTERVAL_US, true), []);
  t.deepEqual(m.tick(3 * CARRIER_INTERVAL_US, false), []);
  const unreachable = { kind: 'changed', reachable: false } as const;
  t.deepEqual(m.tick(4 * CARRIER_INTERVAL_US, false), [unreachable, { kind: 'send', sequence: 2 }]);
  t.deepEqual(m.replied(), [], 'on its way when the cable was pulled');
  t.deepEqual(m.tick(5 * CARRIER_INTERVAL_US, false), []);
  t.deepEqual(m.tick(6 * CARRIER_INTERVAL_US, true), []);
  t.deepEqual(m.replied(), [{ kind: 'changed', reachable: true }]);
  t.deepEqual(m.tick(7 * CARRIER_INTERVAL_US), [], 'nothing can be told of a carrier');
});
