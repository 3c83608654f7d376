import test from 'ava';
import {
  createLeaseMemory,
  LeaseWriter,
  leaseUs,
  OutputLease,
  UNLIMITED_US,
} from '../../../../src/failover/index.js';

test('a lease ends before the promise behind it, although clocks differ by 1000 ppm each way', (t) => {
  for (const promiseUs of [50_000, 500_000, 5_000_000, 60_000_000]) {
    const slowest = leaseUs(promiseUs) / 0.999;
    t.true(slowest + 4_000 < promiseUs / 1.001, `${promiseUs}`);
    t.true(leaseUs(promiseUs) > 0.85 * promiseUs);
  }
  t.is(leaseUs(1), 0);
});

test('a lease that was never armed allows nothing', (t) => {
  const memory = createLeaseMemory();
  const lease = new OutputLease(memory);
  t.false(lease.allows(0));
  new LeaseWriter(memory).extend(1000);
  t.false(lease.allows(0));
});

test('armed, it allows until its end, which may be moved both ways', (t) => {
  const memory = createLeaseMemory();
  const writer = new LeaseWriter(memory);
  const lease = new OutputLease(memory);
  writer.arm(1000);
  t.true(lease.allows(999));
  writer.extend(2000);
  t.true(lease.allows(1999));
  writer.extend(1500);
  t.false(lease.allows(1500));
});

test('once found over it stays shut, though it be extended, until it is armed again', (t) => {
  const memory = createLeaseMemory();
  const writer = new LeaseWriter(memory);
  const lease = new OutputLease(memory);
  const other = new OutputLease(memory);
  writer.arm(1000);
  t.false(lease.allows(1000));
  writer.extend(5000);
  t.false(lease.allows(2000));
  // Nobody has asked this one while it was over: nothing of it was dropped.
  t.true(other.allows(2000));
  writer.arm(5000);
  t.true(lease.allows(2000));
  writer.revoke();
  t.false(lease.allows(0));
  t.false(other.allows(0));
});

test('without a witness it has no end', (t) => {
  const memory = createLeaseMemory();
  new LeaseWriter(memory).armForEver();
  t.true(new OutputLease(memory).allows(UNLIMITED_US - 1));
});
