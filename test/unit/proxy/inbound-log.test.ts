import test from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import { encodeBatch, InboundLog } from '../../../src/proxy/index.js';

function batch(tag: number, frames = 1): Buffer {
  return encodeBatch(Array.from({ length: frames }, () => Buffer.alloc(60, tag)));
}

test('a commit forgets what the checkpoint contains and keeps what came after it', (t) => {
  const log = new InboundLog({ overlapUs: 0 });
  log.push(1, batch(1), 1000);
  log.mark(2, 2000);
  log.push(2, batch(2), 3000);
  log.committed(2);
  t.deepEqual(log.remaining(), [batch(2)]);
});

test('frames that arrived just before the mark are kept', (t) => {
  const log = new InboundLog({ overlapUs: 20_000 });
  log.push(1, batch(1), 79_999);
  log.push(1, batch(2), 80_000);
  log.mark(2, 100_000);
  log.committed(2);
  t.deepEqual(log.remaining(), [batch(2)]);
});

test('what was delivered stays for the next checkpoint, which may not contain it', (t) => {
  const log = new InboundLog({ overlapUs: 20_000 });
  log.mark(2, 100_000);
  log.push(2, batch(1), 105_000);
  log.committed(2);
  t.deepEqual(log.remaining(), [batch(1)]);
  log.mark(3, 110_000);
  log.committed(3);
  t.deepEqual(log.remaining(), [batch(1)]);
  log.mark(4, 200_000);
  log.committed(4);
  t.deepEqual(log.remaining(), []);
});

test('a checkpoint that was never committed is covered by the next one', (t) => {
  const log = new InboundLog({ overlapUs: 0 });
  log.push(1, batch(1), 1000);
  log.mark(2, 2000);
  log.push(2, batch(2), 3000);
  log.mark(3, 4000);
  log.push(3, batch(3), 5000);
  log.committed(3);
  t.deepEqual(log.remaining(), [batch(3)]);
});

test('without a mark everything is kept', (t) => {
  const log = new InboundLog({ overlapUs: 0 });
  log.push(1, batch(1), 1000);
  log.committed(2);
  t.deepEqual(log.remaining(), [batch(1)]);
});

test('a mark that comes after its commit is not too late', (t) => {
  const log = new InboundLog({ overlapUs: 20_000 });
  log.push(1, batch(1), 1000);
  log.committed(2);
  log.push(1, batch(2), 2000);
  log.rewind();
  t.is(log.peek(2), undefined, 'The checkpoint may contain it: its mark will tell');
  log.mark(2, 3000, true);
  t.deepEqual(log.remaining(), []);
  log.push(2, batch(3), 4000);
  t.deepEqual(log.peek(2), batch(3));
});

test('when no mark will come any more, everything is delivered', (t) => {
  const log = new InboundLog();
  log.push(1, batch(1), 1000);
  log.committed(2);
  t.deepEqual(log.peek(), batch(1));
});

test('beyond the bound of bytes the oldest is dropped and counted', (t) => {
  const log = new InboundLog({ bytesMax: 130 });
  log.push(1, batch(1), 1);
  log.push(1, batch(2), 2);
  log.push(1, batch(3), 3);
  t.deepEqual(log.remaining(), [batch(2), batch(3)]);
  t.deepEqual(log.counters, { batches: 2, bytes: 128, droppedFrames: 1 });
});

test('beyond the bound of batches the oldest is dropped and counted', (t) => {
  const log = new InboundLog({ batchesMax: 1 });
  log.push(1, batch(1, 3), 1);
  log.push(1, batch(2), 2);
  t.deepEqual(log.remaining(), [batch(2)]);
  t.is(log.counters.droppedFrames, 3);
});

test('clear forgets everything', (t) => {
  const log = new InboundLog();
  log.push(1, batch(1), 1);
  log.clear();
  t.deepEqual(log.remaining(), []);
  t.is(log.counters.bytes, 0);
});

test('a peer whose epochs go back, repeat a mark or never commit is refused', (t) => {
  const log = new InboundLog();
  log.mark(3, 1);
  t.throws(() => log.push(2, batch(1), 2), { instanceOf: ProtocolError });
  t.throws(() => log.mark(2, 2), { instanceOf: ProtocolError });
  t.throws(() => log.mark(3, 2), { instanceOf: ProtocolError });
  t.throws(
    () => {
      for (let epoch = 4; epoch < 100; epoch++) log.mark(epoch, 3);
    },
    { instanceOf: ProtocolError },
  );
});

test('a malformed batch is refused', (t) => {
  const log = new InboundLog();
  t.throws(() => log.push(1, Buffer.alloc(5), 1), { instanceOf: ProtocolError });
  t.is(log.counters.batches, 0);
});

test('an exact mark leaves nothing to repeat', (t) => {
  const log = new InboundLog({ overlapUs: 20_000 });
  log.push(1, batch(1), 99_999);
  log.mark(2, 100_000, true);
  log.committed(2);
  t.deepEqual(log.remaining(), []);
});

test('each batch is delivered once, and again after the guest became another', (t) => {
  const log = new InboundLog({ overlapUs: 0 });
  log.push(1, batch(1), 1000);
  log.push(1, batch(2), 2000);
  t.deepEqual(log.peek(), batch(1));
  log.delivered();
  t.deepEqual(log.peek(), batch(2));
  log.delivered();
  t.is(log.peek(), undefined);
  log.rewind();
  t.deepEqual(log.peek(), batch(1));
});

test('what belongs to a later epoch waits for it', (t) => {
  const log = new InboundLog({ overlapUs: 0 });
  log.mark(2, 1000);
  log.push(2, batch(1), 2000);
  t.is(log.peek(1), undefined);
  t.deepEqual(log.peek(2), batch(1));
  t.deepEqual(log.peek(), batch(1));
});

test('forgetting what was not delivered moves the place of the next delivery', (t) => {
  const log = new InboundLog({ batchesMax: 2 });
  for (const tag of [1, 2, 3]) log.push(1, batch(tag), 1000);
  t.deepEqual(log.peek(), batch(2));
});
