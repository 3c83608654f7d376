/**
 * The frame decoder against any cut, any truncation, any length field and any bytes: it gives the
 * frames that were encoded, or throws ProtocolError, and nothing else.
 */
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { crc32c, ProtocolError } from '../../../src/lib/index.js';
import { encodeFrame, type Frame, FrameDecoder } from '../../../src/transport/index.js';

const MAX_BYTES = 5000;
const HEADER_BYTES = 16;

const payload = fc.oneof(
  fc.uint8Array({ maxLength: 40 }),
  fc.uint8Array({ minLength: MAX_BYTES - 4, maxLength: MAX_BYTES }),
);
const frame = fc.record({
  type: fc.integer({ min: 0, max: 0xffff }),
  payload: payload.map((bytes) => Buffer.from(bytes)),
});
const frames = fc.array(frame, { minLength: 1, maxLength: 6 });
/** Positions as fractions, so that they fit any stream. */
const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 30 });

function encodeAll(list: readonly Frame[]): Buffer {
  return Buffer.concat(list.flatMap((one) => encodeFrame(one.type, [one.payload])));
}

/** Copies of the pieces, so that a decoder that keeps borrowing too long is caught. */
function cutAt(stream: Buffer, fractions: readonly number[]): Buffer[] {
  const positions = fractions.map((f) => Math.round(f * stream.length)).sort((a, b) => a - b);
  const pieces: Buffer[] = [];
  let from = 0;
  for (const to of [...positions, stream.length]) {
    pieces.push(Buffer.from(stream.subarray(from, to)));
    from = to;
  }
  return pieces;
}

interface Outcome {
  readonly frames: Frame[];
  readonly error: ProtocolError | undefined;
}

/** Decodes piece by piece up to the first error; anything but a ProtocolError goes through. */
function decode(pieces: readonly Buffer[]): Outcome {
  const decoder = new FrameDecoder({ maxPayloadBytes: MAX_BYTES });
  const decoded: Frame[] = [];
  try {
    for (const piece of pieces) decoded.push(...decoder.write(piece));
    decoder.end();
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    return { frames: decoded, error };
  }
  return { frames: decoded, error: undefined };
}

function isPrefix(part: readonly Frame[], whole: readonly Frame[]): boolean {
  return part.every((one, n) => {
    const other = whole[n];
    return other !== undefined && one.type === other.type && one.payload.equals(other.payload);
  });
}

function check(t: ExecutionContext, property: fc.IProperty<unknown>, numRuns = 300): void {
  t.notThrows(() => fc.assert(property, { numRuns }));
}

test('any frames cut anywhere come out as they went in', (t) => {
  check(
    t,
    fc.property(frames, cuts, (list, fractions) => {
      const { frames: decoded, error } = decode(cutAt(encodeAll(list), fractions));
      return error === undefined && decoded.length === list.length && isPrefix(decoded, list);
    }),
  );
});

test('a payload in any number of parts is the payload in one', (t) => {
  check(
    t,
    fc.property(frame, cuts, ({ type, payload: bytes }, fractions) => {
      const parts = encodeFrame(type, cutAt(bytes, fractions));
      return Buffer.concat(parts).equals(encodeAll([{ type, payload: bytes }]));
    }),
  );
});

test('a stream cut at each length gives the whole frames before it, then the end throws', (t) => {
  check(
    t,
    fc.property(fc.array(frame, { minLength: 1, maxLength: 2 }), (list) => {
      const stream = encodeAll(list);
      const ends = new Set([0]);
      let end = 0;
      for (const one of list) {
        end += HEADER_BYTES + one.payload.length;
        ends.add(end);
      }
      for (let length = 0; length < stream.length; length += 1) {
        const { frames: decoded, error } = decode([stream.subarray(0, length)]);
        const whole = [...ends].filter((position) => position > 0 && position <= length).length;
        if (decoded.length !== whole || !isPrefix(decoded, list)) return false;
        if ((error === undefined) !== ends.has(length)) return false;
      }
      return true;
    }),
    8,
  );
});

test('a forged length of 0, 1, max, max + 1 or 2^32 - 1 is an error unless it is true', (t) => {
  const lengths = fc.constantFrom(0, 1, MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1, 0xffff_ffff);
  check(
    t,
    fc.property(frame, lengths, fc.boolean(), (one, length, fixChecksum) => {
      const stream = encodeAll([one]);
      stream.writeUInt32BE(length, 8);
      if (fixChecksum) {
        const body = stream.subarray(HEADER_BYTES, HEADER_BYTES + length);
        stream.writeUInt32BE(crc32c(body, crc32c(stream.subarray(0, 12))), 12);
      }
      const { error } = decode([stream]);
      return (error === undefined) === (length === one.payload.length);
    }),
  );
});

test('random bytes are a ProtocolError', (t) => {
  check(
    t,
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 400 }), cuts, (bytes, fractions) => {
      const { frames: decoded, error } = decode(cutAt(Buffer.from(bytes), fractions));
      return decoded.length === 0 && error !== undefined;
    }),
    1000,
  );
});

const mutation = fc.oneof(
  fc.record({ kind: fc.constant('flip' as const), at: fc.nat(), bit: fc.nat(7) }),
  fc.record({
    kind: fc.constant('drop' as const),
    at: fc.nat(),
    count: fc.integer({ min: 1, max: 20 }),
  }),
  fc.record({
    kind: fc.constant('insert' as const),
    at: fc.nat(),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 20 }),
  }),
);
type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never;

function mutate(stream: Buffer, change: Mutation): Buffer {
  const at = change.at % stream.length;
  if (change.kind === 'flip') {
    const flipped = Buffer.from(stream);
    flipped.writeUInt8(flipped.readUInt8(at) ^ (1 << change.bit), at);
    return flipped;
  }
  const before = stream.subarray(0, at);
  if (change.kind === 'drop') return Buffer.concat([before, stream.subarray(at + change.count)]);
  return Buffer.concat([before, change.bytes, stream.subarray(at)]);
}

test('a mutated stream gives a prefix of its frames, then a ProtocolError', (t) => {
  check(
    t,
    fc.property(frames, mutation, cuts, (list, change, fractions) => {
      const stream = encodeAll(list);
      const mutated = mutate(stream, change);
      const { frames: decoded, error } = decode(cutAt(mutated, fractions));
      // Without whole frames, or with one of them again, a stream is good; a flip is always found.
      const known = decoded.every((one) => list.some((other) => isPrefix([one], [other])));
      const found = error !== undefined && isPrefix(decoded, list);
      return known && (found || (change.kind !== 'flip' && error === undefined));
    }),
    1000,
  );
});

test('a stream of headers that promise much allocates one payload at a time', (t) => {
  const maxPayloadBytes = 4 << 20;
  const header = Buffer.concat(encodeFrame(1, [Buffer.alloc(maxPayloadBytes)])).subarray(0, 16);
  const before = process.memoryUsage().arrayBuffers;
  const decoders = Array.from({ length: 8 }, () => new FrameDecoder({ maxPayloadBytes }));
  for (const decoder of decoders) {
    decoder.write(Buffer.from(header));
    // Everything behind the header counts as its payload; nothing more is allocated for it.
    for (let n = 0; n < 1000; n += 1) decoder.write(header);
  }
  const grown = process.memoryUsage().arrayBuffers - before;
  t.true(grown < decoders.length * maxPayloadBytes + (1 << 20), `${grown} bytes were allocated`);
});
