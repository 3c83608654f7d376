import test from 'ava';
import { AssertionFailed } from '../../../src/lib/index.js';
import { encodeBatch, OutputGate } from '../../../src/proxy/index.js';

function batch(tag: number, frames = 1): Buffer {
  return encodeBatch(Array.from({ length: frames }, () => Buffer.alloc(60, tag)));
}

function holdingGate(epoch: number): OutputGate {
  const gate = new OutputGate();
  gate.hold(epoch);
  return gate;
}

test('a new gate is silent: output is dropped and counted', (t) => {
  const gate = new OutputGate();
  t.is(gate.push(batch(1, 3)), 'dropped');
  t.is(gate.state, 'silent');
  t.is(gate.counters.droppedFrames, 3);
  t.is(gate.counters.droppedBytes, 3 * 64);
  t.deepEqual(gate.open(), []);
});

test('an open gate passes output at once', (t) => {
  const gate = new OutputGate();
  gate.open();
  t.is(gate.push(batch(1)), 'passed');
  t.is(gate.counters.releasedFrames, 1);
  t.is(gate.counters.heldFrames, 0);
});

test('output leaves with the epoch it was said in, in order', (t) => {
  const gate = holdingGate(5);
  t.is(gate.push(batch(1)), 'held');
  gate.push(batch(2));
  gate.closeEpoch(5);
  gate.push(batch(3));
  t.deepEqual(gate.release(5), [batch(1), batch(2)]);
  t.is(gate.counters.heldFrames, 1);
  gate.closeEpoch(6);
  t.deepEqual(gate.release(6), [batch(3)]);
  t.is(gate.counters.heldBytes, 0);
});

test('a checkpoint that failed is covered by the next one', (t) => {
  const gate = holdingGate(1);
  gate.push(batch(1));
  gate.closeEpoch(1);
  gate.push(batch(2));
  gate.closeEpoch(2);
  t.deepEqual(gate.release(2), [batch(1), batch(2)]);
});

test('an epoch that still runs can not be released (I1)', (t) => {
  const gate = holdingGate(1);
  gate.push(batch(1));
  t.throws(() => gate.release(1), { instanceOf: AssertionFailed });
});

test('only the running epoch can be closed', (t) => {
  const gate = holdingGate(4);
  t.throws(() => gate.closeEpoch(3), { instanceOf: AssertionFailed });
  t.throws(() => gate.closeEpoch(5), { instanceOf: AssertionFailed });
});

test('epochs never go back', (t) => {
  const gate = holdingGate(4);
  gate.closeEpoch(4);
  gate.open();
  t.throws(() => gate.hold(4), { instanceOf: AssertionFailed });
});

test('opening a holding gate gives everything held', (t) => {
  const gate = holdingGate(1);
  gate.push(batch(1));
  gate.closeEpoch(1);
  gate.push(batch(2));
  t.deepEqual(gate.open(), [batch(1), batch(2)]);
  t.is(gate.push(batch(3)), 'passed');
});

test('closing or releasing after the gate was opened has no effect', (t) => {
  const gate = holdingGate(1);
  gate.push(batch(1));
  gate.open();
  gate.closeEpoch(1);
  t.deepEqual(gate.release(1), []);
});

test('silence drops what is held', (t) => {
  const gate = holdingGate(1);
  gate.push(batch(1, 2));
  gate.silence();
  t.is(gate.counters.droppedFrames, 2);
  t.is(gate.counters.heldFrames, 0);
  t.deepEqual(gate.open(), []);
});

test('past the soft bound a checkpoint is due, past the hard one reading should stop', (t) => {
  const limits = { softBytes: 100, softFrames: 100, hardBytes: 192, hardFrames: 100 };
  const gate = new OutputGate(limits);
  gate.hold(0);
  gate.push(batch(1));
  t.deepEqual([gate.overBound, gate.full], [false, false]);
  gate.push(batch(2));
  t.deepEqual([gate.overBound, gate.full], [true, false]);
  gate.push(batch(3));
  t.deepEqual([gate.overBound, gate.full], [true, true]);
  t.is(gate.push(batch(4)), 'held');
  gate.closeEpoch(0);
  t.is(gate.release(0).length, 4);
  t.deepEqual([gate.overBound, gate.full], [false, false]);
});

test('many small frames count against the bounds of frames', (t) => {
  const gate = new OutputGate({ softBytes: 1e9, softFrames: 4, hardBytes: 1e9, hardFrames: 8 });
  gate.hold(0);
  gate.push(batch(1, 5));
  t.deepEqual([gate.overBound, gate.full], [true, false]);
  gate.push(batch(1, 5));
  t.true(gate.full);
});

test('what both guests have said passes at once in the running epoch, and only there', (t) => {
  const gate = new OutputGate();
  t.is(gate.confirm(0, batch(1)), 'dropped');
  gate.hold(5);
  t.is(gate.confirm(5, batch(1)), 'passed');
  t.is(gate.counters.heldFrames, 0);
  gate.closeEpoch(5);
  t.throws(() => gate.confirm(5, batch(1)), { message: /I1/ });
});
