import test from 'ava';
import { PeerMonitor } from '../../../../src/failover/index.js';

function monitor(): PeerMonitor {
  const m = new PeerMonitor({ peerTimeoutUs: 500, tickUs: 50 });
  m.start(0);
  return m;
}

function ticks(m: PeerMonitor, fromUs: number, toUs: number) {
  const found = [];
  for (let nowUs = fromUs; nowUs <= toUs; nowUs += 50) {
    const view = m.tick(nowUs);
    if (view !== undefined) found.push({ nowUs, ...view });
  }
  return found;
}

test('silence makes a peer suspect at half of the time-out, and lost at its end', (t) => {
  t.deepEqual(ticks(monitor(), 50, 2000), [
    { nowUs: 250, kind: 'suspect', reason: 'silence' },
    { nowUs: 500, kind: 'lost', reason: 'silence', proof: false },
  ]);
});

test('one that is heard again is alive, unless something else is wrong with it', (t) => {
  const m = monitor();
  ticks(m, 50, 300);
  t.deepEqual(m.heard(310), { kind: 'alive' });
  t.deepEqual(m.suspect('QMP hang'), { kind: 'suspect', reason: 'QMP hang' });
  t.is(m.heard(320), undefined);
  t.deepEqual(m.view, { kind: 'suspect', reason: 'QMP hang' });
  t.deepEqual(m.cleared(), { kind: 'alive' });
});

test('the first reason is told when silence follows it', (t) => {
  const m = monitor();
  m.suspect('connection reset');
  t.like(ticks(m, 50, 2000), [{ kind: 'lost', reason: 'connection reset', proof: false }]);
});

test('one that was lost by its silence alone is alive when it is heard again', (t) => {
  const m = monitor();
  ticks(m, 50, 500);
  t.deepEqual(m.view, { kind: 'lost', reason: 'silence', proof: false });
  t.deepEqual(m.heard(600), { kind: 'alive' });
  t.deepEqual(ticks(m, 650, 900), [{ nowUs: 900, kind: 'suspect', reason: 'silence' }]);
});

test('proof may come after the verdict, and nothing brings a lost one back', (t) => {
  const m = monitor();
  ticks(m, 50, 500);
  t.deepEqual(m.lost('process gone', true), { kind: 'lost', reason: 'process gone', proof: true });
  t.is(m.lost('operator', true), undefined);
  t.is(m.heard(600), undefined);
  t.is(m.suspect('QEMU exit'), undefined);
  t.is(m.view.kind, 'lost');
  m.start(700);
  t.is(m.view.kind, 'alive');
});

test('a process that was stopped itself reads its sockets before it judges', (t) => {
  const m = monitor();
  t.is(m.tick(60_000), undefined);
  t.is(m.view.kind, 'alive');
});

test('where nothing is expected nothing is lost', (t) => {
  const m = new PeerMonitor({ peerTimeoutUs: 500, tickUs: 50 });
  t.deepEqual(ticks(m, 50, 2000), []);
  t.is(m.lost('operator', true), undefined);
});
