import test from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  BATCH_BYTES_MAX,
  BatchDecoder,
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

function lengthField(length: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(length, 0);
  return bytes;
}

const A = Buffer.alloc(14, 0xaa);
const B = Buffer.alloc(60, 0xbb);

test('a chunk of whole frames is one batch that shares its memory', (t) => {
  const chunk = encodeBatch([A, B]);
  const [batch, ...others] = new BatchDecoder().write(chunk);
  t.deepEqual(others, []);
  t.deepEqual(batch, chunk);
  t.is(batch?.buffer, chunk.buffer);
});

test('a frame cut at any byte comes out whole and in order', (t) => {
  const stream = encodeBatch([A, B, A]);
  for (let cut = 0; cut <= stream.length; cut++) {
    const decoder = new BatchDecoder();
    const batches = [
      ...decoder.write(stream.subarray(0, cut)),
      ...decoder.write(stream.subarray(cut)),
    ];
    t.deepEqual(Buffer.concat(batches), stream);
  }
});

test('nothing comes out of an unfinished frame', (t) => {
  const stream = encodeBatch([B]);
  t.deepEqual(new BatchDecoder().write(stream.subarray(0, stream.length - 1)), []);
});

test('lengths that no frame can have are refused, also when the length is cut', (t) => {
  for (const length of [0, FRAME_BYTES_MIN - 1, FRAME_BYTES_MAX + 1, 0xffffffff]) {
    t.throws(() => new BatchDecoder().write(lengthField(length)), { instanceOf: ProtocolError });
    const decoder = new BatchDecoder();
    decoder.write(lengthField(length).subarray(0, 3));
    t.throws(() => decoder.write(lengthField(length).subarray(3)), { instanceOf: ProtocolError });
  }
});

test('the shortest and the longest frame pass', (t) => {
  const stream = encodeBatch([Buffer.alloc(FRAME_BYTES_MIN), Buffer.alloc(FRAME_BYTES_MAX, 1)]);
  t.deepEqual(Buffer.concat(new BatchDecoder().write(stream)), stream);
});

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

test('a batch from the peer longer than the bound is refused', (t) => {
  const frame = Buffer.alloc(60_000);
  const frames = Array.from({ length: Math.ceil(BATCH_BYTES_MAX / 60_000) }, () => frame);
  t.throws(() => checkBatch(encodeBatch(frames)), { instanceOf: ProtocolError });
});
