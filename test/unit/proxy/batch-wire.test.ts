import test from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  BATCH_BYTES_MAX,
  checkBatch,
  countFrames,
  encodeBatch,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  forEachFrame,
} from '../../../src/proxy/index.js';

function framesOf(batch: Buffer): string[] {
  const frames: string[] = [];
  forEachFrame(batch, (frame) => frames.push(frame.toString('hex')));
  return frames;
}

const A = Buffer.alloc(FRAME_BYTES_MIN, 0xaa);
const B = Buffer.alloc(60, 0xbb);

test('frames are counted and visited without their lengths', (t) => {
  const batch = encodeBatch([A, B]);
  t.is(countFrames(batch), 2);
  t.deepEqual(framesOf(batch), [A.toString('hex'), B.toString('hex')]);
});

test('a batch from the peer must be whole frames of legal length', (t) => {
  const batch = encodeBatch([A, B]);
  t.is(checkBatch(batch), 2);
  t.is(checkBatch(Buffer.alloc(0)), 0);
  for (const length of [batch.length - 1, A.length + 4 + 2, 3]) {
    t.throws(() => checkBatch(batch.subarray(0, length)), { instanceOf: ProtocolError });
  }
  t.throws(() => checkBatch(Buffer.alloc(8)), { instanceOf: ProtocolError });
});

test('the shortest and the longest frame pass, one byte less or more does not', (t) => {
  for (const [length, legal] of [
    [FRAME_BYTES_MIN - 1, false],
    [FRAME_BYTES_MIN, true],
    [FRAME_BYTES_MAX, true],
    [FRAME_BYTES_MAX + 1, false],
  ] as const) {
    const batch = encodeBatch([Buffer.alloc(length)]);
    if (legal) t.is(checkBatch(batch), 1);
    else t.throws(() => checkBatch(batch), { instanceOf: ProtocolError });
  }
});

test('a batch from the peer longer than the bound is refused', (t) => {
  const frame = Buffer.alloc(60_000);
  const frames = Array.from({ length: Math.ceil(BATCH_BYTES_MAX / 60_000) }, () => frame);
  t.throws(() => checkBatch(encodeBatch(frames)), { instanceOf: ProtocolError });
});
