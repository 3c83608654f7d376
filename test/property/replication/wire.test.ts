import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  type ControlMessage,
  decodeControl,
  decodeNetwork,
  decodeRam,
  encodeControl,
  encodeDeviceState,
  encodeFlowsKnown,
  encodeInbound,
  encodeRamEnd,
  encodeTranslationsMessage,
  parseHello,
  parseHelloReply,
} from '../../../src/replication/index.js';

const epoch = fc.maxSafeNat();
const reason = fc.string({ maxLength: 200 });
const control: fc.Arbitrary<ControlMessage> = fc.oneof(
  fc.record({ kind: fc.constantFrom('hello', 'helloReply'), json: fc.json() }),
  fc.record({ kind: fc.constant('heartbeat'), hears: fc.boolean() }),
  fc.record({
    kind: fc.constant('endRecord'),
    record: fc.record({
      epoch,
      ramFrames: fc.nat(),
      ramPages: epoch,
      ramDigest: fc.nat(),
      deviceStateBytes: fc.nat(),
      disks: fc.array(fc.record({ operations: epoch, bytes: epoch }), { maxLength: 32 }),
      svmRuns: fc.boolean(),
      sinceResumeUs: fc.nat(),
    }),
  }),
  fc.record({ kind: fc.constant('committed'), epoch }),
  fc.record({ kind: fc.constant('applied'), epoch, durationUs: epoch }),
  fc.record({ kind: fc.constant('unfit'), reason }),
  fc.record({
    kind: fc.constant('goodbye'),
    goodbye: fc.constantFrom('handover', 'guest-off'),
    reason,
  }),
  fc.record({ kind: fc.constantFrom('takeover', 'yielded') }),
) as fc.Arbitrary<ControlMessage>;

test('control messages survive the wire, and every cut of them is refused', (t) => {
  fc.assert(
    fc.property(control, (message) => {
      const { type, parts } = encodeControl(message);
      const payload = Buffer.concat(parts);
      t.deepEqual(decodeControl(type, payload), message);
      for (let length = 0; length < payload.length; length++) {
        t.throws(() => decodeControl(type, payload.subarray(0, length)), {
          instanceOf: ProtocolError,
        });
      }
    }),
    { numRuns: 60 },
  );
});

test('random bytes on any channel are a protocol error or a checked message', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0x100, max: 0x150 }),
      fc.uint8Array({ maxLength: 300 }),
      (type, bytes) => {
        const payload = Buffer.from(bytes);
        for (const decode of [
          () => decodeControl(type, payload),
          () => decodeRam(type, payload, 1 << 20),
          () => decodeNetwork(type, payload, 1),
          () => parseHello(payload.toString('latin1')),
          () => parseHelloReply(payload.toString('latin1')),
        ]) {
          try {
            decode();
          } catch (error) {
            if (!(error instanceof ProtocolError)) throw error;
          }
        }
      },
    ),
    { numRuns: 3000 },
  );
  t.pass();
});

test('device states, RAM ends and inbound batches survive the wire', (t) => {
  const join = ({ type, parts }: { type: number; parts: readonly Buffer[] }) =>
    [type, Buffer.concat(parts)] as const;
  const bytes = Buffer.from('state');
  t.deepEqual(decodeRam(...join(encodeDeviceState(9, bytes)), 4096), {
    kind: 'deviceState',
    epoch: 9,
    bytes,
  });
  const end = { epoch: 9, frames: 2, pages: 3, verifyDigest: 0xdeadbeef };
  t.deepEqual(decodeRam(...join(encodeRamEnd(end)), 4096), { kind: 'ramEnd', ...end });
  t.deepEqual(decodeNetwork(...join(encodeInbound(9, 1, bytes)), 2), {
    kind: 'inbound',
    epoch: 9,
    nic: 1,
    batch: bytes,
  });
  t.deepEqual(decodeNetwork(...join(encodeTranslationsMessage(1, bytes)), 2), {
    kind: 'translations',
    nic: 1,
    records: bytes,
  });
  t.throws(() => decodeNetwork(...join(encodeTranslationsMessage(2, bytes)), 2), {
    instanceOf: ProtocolError,
  });
  const known = join(encodeFlowsKnown(9, 1, 0xffff_ffff));
  t.deepEqual(decodeNetwork(...known, 2), {
    kind: 'flowsKnown',
    epoch: 9,
    nic: 1,
    count: 0xffff_ffff,
  });
  t.throws(() => decodeNetwork(...known, 1), { instanceOf: ProtocolError });
  const longer = Buffer.concat([known[1], Buffer.alloc(1)]);
  t.throws(() => decodeNetwork(known[0], longer, 2), { instanceOf: ProtocolError });
});

test('runs that are unaligned, empty, outside RAM or too many are refused', (t) => {
  const frame = (offset: number, length: number) => {
    const payload = Buffer.alloc(8 + 4 + 13);
    payload.writeUInt32BE(1, 8);
    payload.writeUInt32BE(offset, 16);
    payload.writeUInt32BE(length, 20);
    payload.writeUInt8(1, 24);
    return payload;
  };
  t.notThrows(() => decodeRam(0x120, frame(4096, 4096), 8192));
  for (const [offset, length] of [
    [1, 4096],
    [0, 100],
    [0, 0],
    [8192, 4096],
    [4096, 8192],
  ] as const) {
    t.throws(() => decodeRam(0x120, frame(offset, length), 8192), { instanceOf: ProtocolError });
  }
  t.throws(() => decodeRam(0x120, frame(0, 32 << 20), 2 ** 31), {
    message: /more than 4096 pages/,
  });
});
