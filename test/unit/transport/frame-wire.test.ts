import test from 'ava';
import { crc32c, Prng, ProtocolError } from '../../../src/lib/index.js';
import { encodeFrame, type Frame, FrameDecoder, payloadCrc } from '../../../src/transport/index.js';

const LIMITS = { maxPayloadBytes: 1000 };

function frameBytes(type: number, payload: Buffer): Buffer {
  return Buffer.concat(encodeFrame(type, [payload]));
}

/** A good frame with some header bytes replaced and the checksum made right again. */
function forged(change: (header: Buffer) => void, payload = Buffer.from('abc')): Buffer {
  const bytes = frameBytes(0x100, payload);
  change(bytes);
  bytes.writeUInt32BE(crc32c(payload, crc32c(bytes.subarray(0, 12))), 12);
  return bytes;
}

test('a frame is its header and the parts given, which are not copied', (t) => {
  const parts = [Buffer.from('ab'), Buffer.alloc(0), Buffer.from('c')];
  const encoded = encodeFrame(0x0123, parts);
  t.is(encoded.length, 4);
  t.is(encoded[1], parts[0]);
  t.is(encoded[3], parts[2]);
  const [frame] = new FrameDecoder(LIMITS).write(Buffer.concat(encoded));
  t.like(frame, { type: 0x0123, payload: Buffer.from('abc') });
});

test('the checksum of a payload is known without reading it again', (t) => {
  const payload = Buffer.from('abcdefgh'.repeat(100));
  const decoder = new FrameDecoder(LIMITS);
  for (const length of [0, 1, payload.length]) {
    const [frame] = decoder.write(Buffer.concat(encodeFrame(1, [payload.subarray(0, length)])));
    const expected = crc32c(payload.subarray(0, length));
    t.is(payloadCrc(frame as Frame), expected);
    // Nobody reads it: it is what came, even if somebody has written to it since.
    frame?.payload.fill(0);
    t.is(payloadCrc(frame as Frame), expected);
  }
  t.is(payloadCrc({ type: 1, payload }), crc32c(payload));
});

test('several frames in one chunk come out in order', (t) => {
  const stream = Buffer.concat([1, 2, 3].map((n) => frameBytes(n, Buffer.alloc(n * 10, n))));
  const frames = new FrameDecoder(LIMITS).write(stream);
  t.deepEqual(
    frames.map((frame) => [frame.type, frame.payload.length]),
    [
      [1, 10],
      [2, 20],
      [3, 30],
    ],
  );
});

test('a payload inside of one chunk is a slice of it, not a copy', (t) => {
  const stream = frameBytes(1, Buffer.alloc(100, 1));
  const [frame] = new FrameDecoder(LIMITS).write(stream);
  stream[16] = 9;
  t.is(frame?.payload[0], 9);
});

test('a payload over several chunks is owned by the receiver and not reused', (t) => {
  const decoder = new FrameDecoder(LIMITS);
  const cut = (bytes: Buffer): Frame[] => [
    ...decoder.write(Buffer.from(bytes.subarray(0, 50))),
    ...decoder.write(Buffer.from(bytes.subarray(50))),
  ];
  const [first] = cut(frameBytes(1, Buffer.alloc(500, 1)));
  const [second] = cut(frameBytes(2, Buffer.alloc(500, 2)));
  t.deepEqual(first?.payload, Buffer.alloc(500, 1));
  t.deepEqual(second?.payload, Buffer.alloc(500, 2));
});

/** As a socket is read that knows where its bytes belong, so many of them at a time. */
function readInPlace(decoder: FrameDecoder, stream: Buffer, sizes: () => number): Frame[] {
  const frames: Frame[] = [];
  const passing = Buffer.alloc(20_000);
  for (let at = 0; at < stream.length; ) {
    const place = decoder.place();
    const into = place ?? passing;
    const bytes = Math.min(sizes(), into.length, stream.length - at);
    stream.copy(into, 0, at, at + bytes);
    if (place !== undefined) frames.push(...decoder.filled(bytes));
    else frames.push(...decoder.write(passing.subarray(0, bytes), 'passing'));
    passing.fill(0xee);
    at += bytes;
  }
  return frames;
}

test('bytes that are read to their place, and ones that only pass, make the same frames', (t) => {
  const prng = new Prng(7);
  for (let round = 0; round < 200; round += 1) {
    const sent = Array.from({ length: 6 }, (_, type) => {
      const length = prng.nextInt(0, prng.chance(0.5) ? 100 : 60_000);
      return { type, payload: Buffer.alloc(length, prng.nextInt(0, 255)) };
    });
    const stream = Buffer.concat(sent.map(({ type, payload }) => frameBytes(type, payload)));
    const once = prng.chance(0.5) ? 70_000 : 3000;
    const decoder = new FrameDecoder({ maxPayloadBytes: 60_000 });
    const frames = readInPlace(decoder, stream, () => prng.nextInt(1, once));
    t.is(frames.length, sent.length);
    for (const [i, frame] of frames.entries()) t.like(frame, sent[i] as (typeof sent)[number]);
    t.notThrows(() => decoder.end());
  }
});

test('a place is told only for what a read of its own is worth', (t) => {
  const stream = frameBytes(1, Buffer.alloc(20_000, 1));
  const decoder = new FrameDecoder({ maxPayloadBytes: 20_000 });
  t.is(decoder.place(), undefined);
  decoder.write(stream.subarray(0, 16 + 5000), 'passing');
  t.is(decoder.place()?.length, 15_000);
  t.deepEqual(decoder.filled(14_000), []);
  t.is(decoder.place(), undefined);
});

test('a wrong byte that was read to its place is refused, too', (t) => {
  const stream = frameBytes(1, Buffer.alloc(30_000, 1));
  for (const at of [3, 7, 20, 15_000, 30_015]) {
    const wrong = Buffer.from(stream);
    wrong[at] = (wrong[at] as number) ^ 4;
    const decoder = new FrameDecoder({ maxPayloadBytes: 30_000 });
    const error = t.throws(() => readInPlace(decoder, wrong, () => 12_000));
    t.true(error instanceof ProtocolError);
    t.is(decoder.place(), undefined);
    t.is(
      t.throws(() => decoder.write(stream)),
      error,
    );
  }
});

test('a wrong version is refused by name of both versions', (t) => {
  const bytes = forged((header) => header.writeUInt8(7, 4));
  t.throws(() => new FrameDecoder(LIMITS).write(bytes), {
    instanceOf: ProtocolError,
    message: 'The peer speaks frame version 7, this side version 1',
  });
});

test('a wrong magic, a flag, and a wrong checksum are refused', (t) => {
  const magic = forged((header) => header.writeUInt8(0x43 ^ 1, 0));
  t.throws(() => new FrameDecoder(LIMITS).write(magic), { message: /instead of "COLO"/ });
  const flags = forged((header) => header.writeUInt8(1, 5));
  t.throws(() => new FrameDecoder(LIMITS).write(flags), { message: /flags 0x01/ });
  const flipped = frameBytes(1, Buffer.from('abc'));
  flipped.writeUInt8(flipped.readUInt8(18) ^ 4, 18);
  t.throws(() => new FrameDecoder(LIMITS).write(flipped), { message: /checksum/ });
});

test('the length field is checked against the limit before its payload arrives', (t) => {
  for (const length of [0, 1, LIMITS.maxPayloadBytes]) {
    const decoder = new FrameDecoder(LIMITS);
    const bytes = frameBytes(1, Buffer.alloc(length));
    t.deepEqual(decoder.write(bytes.subarray(0, 16)).length, length === 0 ? 1 : 0);
    t.is(decoder.write(bytes.subarray(16)).length, length === 0 ? 0 : 1);
  }
  for (const length of [LIMITS.maxPayloadBytes + 1, 0xffff_ffff]) {
    const header = forged((bytes) => bytes.writeUInt32BE(length, 8)).subarray(0, 16);
    t.throws(() => new FrameDecoder(LIMITS).write(header), {
      instanceOf: ProtocolError,
      message: `A frame of type 0x0100 announces ${length} bytes, the limit is 1000`,
    });
  }
});

test('a length that lies about the payload is found by checksum, magic or end', (t) => {
  const shorter = frameBytes(1, Buffer.from('abc'));
  shorter.writeUInt32BE(2, 8);
  t.throws(() => new FrameDecoder(LIMITS).write(shorter), { instanceOf: ProtocolError });
  const longer = frameBytes(1, Buffer.from('abc'));
  longer.writeUInt32BE(4, 8);
  const decoder = new FrameDecoder(LIMITS);
  t.deepEqual(decoder.write(longer), []);
  t.throws(() => decoder.end(), { instanceOf: ProtocolError });
});

test('a raised limit holds for the next header', (t) => {
  const decoder = new FrameDecoder({ maxPayloadBytes: 1 });
  t.is(decoder.write(frameBytes(1, Buffer.alloc(1))).length, 1);
  decoder.setMaxPayloadBytes(2);
  t.is(decoder.write(frameBytes(1, Buffer.alloc(2))).length, 1);
});

test('after malformed bytes every call throws the same error', (t) => {
  const decoder = new FrameDecoder(LIMITS);
  const first = t.throws(() => decoder.write(Buffer.alloc(16)), { instanceOf: ProtocolError });
  t.is(
    t.throws(() => decoder.write(frameBytes(1, Buffer.alloc(1)))),
    first,
  );
  t.is(
    t.throws(() => decoder.end()),
    first,
  );
});

test('the end inside of header or payload says how much was there', (t) => {
  const bytes = frameBytes(1, Buffer.alloc(10));
  const inHeader = new FrameDecoder(LIMITS);
  inHeader.write(bytes.subarray(0, 5));
  t.throws(() => inHeader.end(), { message: /after 5 of 16 bytes of a frame's header/ });
  const inPayload = new FrameDecoder(LIMITS);
  inPayload.write(bytes.subarray(0, 20));
  t.throws(() => inPayload.end(), { message: /after 4 of 10 bytes of a frame's payload/ });
  const between = new FrameDecoder(LIMITS);
  between.write(bytes);
  t.notThrows(() => between.end());
});
