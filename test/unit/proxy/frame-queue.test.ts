import test from 'ava';
import { FrameQueue } from '../../../src/proxy/frame-queue.js';
import { encodeBatch } from '../../../src/proxy/index.js';

const A = Buffer.alloc(24, 1);
const B = Buffer.alloc(60, 2);
const C = Buffer.alloc(99, 3);

test('batches come out in order, each until its last frame is done with', (t) => {
  const queue = new FrameQueue(1000);
  const [first, second] = [encodeBatch([A, B]), encodeBatch([C])];
  queue.push(first);
  queue.push(second);
  t.is(queue.front, first);
  queue.advance(28);
  t.is(queue.front, first);
  t.is(queue.offset, 28);
  t.is(queue.bytes, first.length + second.length - 28);
  queue.advance(first.length);
  t.is(queue.front, second);
  t.is(queue.offset, 0);
  queue.advance(second.length);
  t.is(queue.front, undefined);
  t.is(queue.bytes, 0);
});

test('an empty batch is nothing to wait for', (t) => {
  const queue = new FrameQueue(1000);
  queue.push(Buffer.alloc(0));
  t.is(queue.front, undefined);
});

test('clear counts the frames that were not done with', (t) => {
  const queue = new FrameQueue(1000);
  queue.push(encodeBatch([A, B, C]));
  queue.push(encodeBatch([C]));
  queue.advance(28);
  t.is(queue.clear(), 3);
  t.is(queue.front, undefined);
  t.is(queue.bytes, 0);
});

test('the queue is full from its bound on, and takes more nevertheless', (t) => {
  const batch = encodeBatch([A]);
  const queue = new FrameQueue(2 * batch.length);
  queue.push(batch);
  t.false(queue.full);
  queue.push(batch);
  t.true(queue.full);
  queue.push(batch);
  t.is(queue.bytes, 3 * batch.length);
});
