/**
 * The transport's own frames, as golden bytes. The checksums were made by a separate bit-by-bit
 * CRC-32C, so that encoder and decoder can't be wrong in the same way.
 */
import test from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  type Attach,
  decodeAttach,
  decodeAttachOk,
  decodeAttachRefused,
  decodeProbeOk,
  encodeAttach,
  encodeAttachOk,
  encodeAttachRefused,
  encodeProbeOk,
  FRAME_TYPES,
  INSTANCE_BYTES,
  negotiateVersion,
} from '../../../src/transport/attach-wire.js';
import { encodeFrame, FrameDecoder } from '../../../src/transport/index.js';
import { REFUSAL_TEXT_MAX_BYTES } from '../../../src/transport/limits.js';

const SESSION_ID = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');
const RAM: Attach = {
  sessionId: SESSION_ID,
  channel: 'ram',
  purpose: 'session',
  versions: { min: 1, max: 1 },
};
const PROBE: Attach = {
  sessionId: SESSION_ID,
  channel: 'control',
  purpose: 'probe',
  versions: { min: 1, max: 3 },
};

const GOLDEN = [
  {
    name: 'attach of the ram channel',
    hex: '434f4c4f01000001000000162807f0bd000102030405060708090a0b0c0d0e0f020100010001',
    type: FRAME_TYPES.attach,
    payload: encodeAttach(RAM),
    decode: decodeAttach,
    value: RAM,
  },
  {
    name: 'attach of a probe',
    hex: '434f4c4f0100000100000016b5b3fb64000102030405060708090a0b0c0d0e0f010200010003',
    type: FRAME_TYPES.attach,
    payload: encodeAttach(PROBE),
    decode: decodeAttach,
    value: PROBE,
  },
  {
    name: 'attachOk',
    hex: '434f4c4f010000020000000266959c7b0001',
    type: FRAME_TYPES.attachOk,
    payload: encodeAttachOk(1),
    decode: (payload: Buffer) => decodeAttachOk(payload, { min: 1, max: 1 }),
    value: 1,
  },
  {
    name: 'attachRefused',
    hex: '434f4c4f0100000300000008a7e794d00000000462757379',
    type: FRAME_TYPES.attachRefused,
    payload: encodeAttachRefused('busy'),
    decode: decodeAttachRefused,
    value: 'busy',
  },
  {
    name: 'probeOk',
    hex: '434f4c4f01000004000000114c3507c20107070707070707070707070707070707',
    type: FRAME_TYPES.probeOk,
    payload: encodeProbeOk({ answer: 'serving', instance: Buffer.alloc(INSTANCE_BYTES, 7) }),
    decode: decodeProbeOk,
    value: { answer: 'serving', instance: Buffer.alloc(INSTANCE_BYTES, 7) },
  },
] as const;

for (const golden of GOLDEN) {
  const bytes = Buffer.from(golden.hex, 'hex');

  test(`${golden.name} encodes to its golden bytes and back`, (t) => {
    t.is(Buffer.concat(encodeFrame(golden.type, [golden.payload])).toString('hex'), golden.hex);
    const [frame] = new FrameDecoder({ maxPayloadBytes: 64 }).write(Buffer.from(bytes));
    t.is(frame?.type, golden.type);
    t.deepEqual(golden.decode(frame?.payload ?? Buffer.alloc(1)), golden.value);
  });

  test(`${golden.name} split at every offset decodes to the same frame`, (t) => {
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const decoder = new FrameDecoder({ maxPayloadBytes: 64 });
      const frames = [
        ...decoder.write(Buffer.from(bytes.subarray(0, cut))),
        ...decoder.write(Buffer.from(bytes.subarray(cut))),
      ];
      t.is(frames.length, 1);
      t.deepEqual(frames[0]?.payload, golden.payload);
    }
  });

  test(`${golden.name} with any one bit flipped is refused or incomplete`, (t) => {
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      t.throws(
        () => {
          const decoder = new FrameDecoder({ maxPayloadBytes: 64 });
          decoder.write(flipped);
          decoder.end();
        },
        { instanceOf: ProtocolError },
      );
    }
  });

  test(`${golden.name} with its payload cut or extended is refused`, (t) => {
    for (let length = 0; length < golden.payload.length; length += 1) {
      t.throws(() => golden.decode(golden.payload.subarray(0, length)), {
        instanceOf: ProtocolError,
      });
    }
    const extended = Buffer.concat([golden.payload, Buffer.alloc(1)]);
    t.throws(() => golden.decode(extended), { instanceOf: ProtocolError });
  });
}

test('an attach with an unknown channel, purpose or an empty version range is refused', (t) => {
  const changed = (change: (bytes: Buffer) => void) => {
    const bytes = encodeAttach(RAM);
    change(bytes);
    return () => decodeAttach(bytes);
  };
  for (const channel of [0, 6, 255]) {
    t.throws(
      changed((b) => b.writeUInt8(channel, 16)),
      { message: `An attach names channel ${channel}` },
    );
  }
  for (const purpose of [0, 3, 255]) {
    t.throws(
      changed((b) => b.writeUInt8(purpose, 17)),
      { message: `An attach names purpose ${purpose}` },
    );
  }
  t.throws(
    changed((b) => b.writeUInt16BE(0, 18)),
    { message: /versions 0 to 1/ },
  );
  t.throws(
    changed((b) => b.writeUInt16BE(2, 18)),
    { message: /versions 2 to 1/ },
  );
});

test('the newest common version is chosen, and none from ranges that do not meet', (t) => {
  t.is(negotiateVersion({ min: 1, max: 3 }, { min: 2, max: 5 }), 3);
  t.is(negotiateVersion({ min: 2, max: 5 }, { min: 1, max: 3 }), 3);
  t.is(negotiateVersion({ min: 1, max: 1 }, { min: 1, max: 1 }), 1);
  t.is(negotiateVersion({ min: 1, max: 2 }, { min: 3, max: 4 }), undefined);
});

test('a version that was not offered is refused', (t) => {
  t.throws(() => decodeAttachOk(encodeAttachOk(4), { min: 1, max: 3 }), {
    message: 'The peer chose version 4, offered were 1 to 3',
  });
});

test('a refusal is cut by the sender, bounded for the receiver and has no control characters', (t) => {
  const long = decodeAttachRefused(encodeAttachRefused('x'.repeat(REFUSAL_TEXT_MAX_BYTES + 1)));
  t.is(long.length, REFUSAL_TEXT_MAX_BYTES);
  for (const length of [0, 1, REFUSAL_TEXT_MAX_BYTES]) {
    t.is(decodeAttachRefused(encodeAttachRefused('x'.repeat(length))).length, length);
  }
  const tooLong = Buffer.alloc(4 + REFUSAL_TEXT_MAX_BYTES + 1);
  tooLong.writeUInt32BE(REFUSAL_TEXT_MAX_BYTES + 1, 0);
  t.throws(() => decodeAttachRefused(tooLong), { instanceOf: ProtocolError });
  t.is(decodeAttachRefused(encodeAttachRefused('a\nb\u001b[31m')), 'a?b?[31m');
});
