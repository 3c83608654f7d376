import test from 'ava';
import { encodeBatch } from '../../../src/proxy/index.js';
import { LanQueue } from '../../../src/proxy/lan-queue.js';
import { LAN_QUEUE_BYTES_HARD } from '../../../src/proxy/limits.js';

const A = Buffer.alloc(14, 1);
const B = Buffer.alloc(60, 2);
const C = Buffer.alloc(99, 3);

test('frames come out one by one in the order of the batches', (t) => {
  const queue = new LanQueue();
  queue.push(encodeBatch([A, B]));
  queue.push(encodeBatch([C]));
  t.deepEqual([queue.shift(), queue.shift()], [A, B]);
  queue.push(encodeBatch([A]));
  t.deepEqual([queue.shift(), queue.shift(), queue.shift()], [C, A, undefined]);
  t.is(queue.bytes, 0);
});

test('clear counts the frames that were not taken yet', (t) => {
  const queue = new LanQueue();
  queue.push(encodeBatch([A, B, C]));
  queue.push(encodeBatch([C]));
  queue.shift();
  t.is(queue.clear(), 3);
  t.is(queue.shift(), undefined);
  t.is(queue.bytes, 0);
});

test('the queue is full from its bound on', (t) => {
  const queue = new LanQueue();
  const big = encodeBatch([Buffer.alloc(60_000)]);
  while (queue.bytes + big.length < LAN_QUEUE_BYTES_HARD) queue.push(big);
  t.false(queue.full);
  queue.push(big);
  t.true(queue.full);
});
