import test from 'ava';
import fc from 'fast-check';
import {
  decodeHeartbeat,
  encodeHeartbeat,
  HEARTBEAT_BYTES,
  type HeartbeatMessage,
} from '../../../../src/failover/index.js';
import { crc32c } from '../../../../src/lib/index.js';

const KEY = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');
const number = fc.nat({ max: Number.MAX_SAFE_INTEGER });
const message: fc.Arbitrary<HeartbeatMessage> = fc.oneof(
  fc.record({
    kind: fc.constant('heartbeat' as const),
    sequence: number,
    asks: fc.boolean(),
    token: number,
    session: fc.option(number, { nil: undefined }),
    lan: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('confirmation' as const), sequence: number, token: number }),
);

test('every message survives its bytes', (t) => {
  fc.assert(
    fc.property(message, (sent) => {
      t.deepEqual(decodeHeartbeat(encodeHeartbeat(sent, KEY), KEY), sent);
    }),
  );
});

test('any change of any byte, any other length and any other key is no heartbeat', (t) => {
  const said = { sequence: 5, asks: true, token: 7, session: 2, lan: true } as const;
  const sent = { kind: 'heartbeat', ...said } as const;
  const bytes = encodeHeartbeat(sent, KEY);
  t.is(bytes.length, HEARTBEAT_BYTES);
  t.is(bytes.subarray(0, 4).toString(), 'COHB');
  for (let at = 0; at < bytes.length; at += 1) {
    t.is(decodeHeartbeat(bytes.subarray(0, at), KEY), undefined);
    const changed = Buffer.from(bytes);
    changed.writeUInt8(changed.readUInt8(at) ^ 0x40, at);
    t.is(decodeHeartbeat(changed, KEY), undefined);
  }
  t.is(decodeHeartbeat(Buffer.concat([bytes, Buffer.alloc(1)]), KEY), undefined);
  t.is(decodeHeartbeat(bytes, Buffer.alloc(16)), undefined);
});

test('fields out of range are refused although the checksum is right', (t) => {
  const sent = { kind: 'confirmation', sequence: 5, token: 7 } as const;
  const sealed = (change: (bytes: Buffer) => void) => {
    const bytes = encodeHeartbeat(sent, KEY);
    change(bytes);
    bytes.writeUInt32BE(crc32c(bytes.subarray(0, 48)), 48);
    return decodeHeartbeat(bytes, KEY);
  };
  t.deepEqual(
    sealed(() => {}),
    sent,
  );
  const changes: ((bytes: Buffer) => void)[] = [
    (bytes) => bytes.writeUInt8(2, 4),
    (bytes) => bytes.writeUInt8(0, 5),
    (bytes) => bytes.writeUInt8(3, 5),
    (bytes) => bytes.writeUInt8(1, 6),
    (bytes) => bytes.writeUInt8(1, 7),
    (bytes) => bytes.writeUInt8(0x20, 24),
    (bytes) => bytes.writeUInt8(0x20, 32),
    (bytes) => bytes.writeUInt8(1, 47),
  ];
  for (const change of changes) t.is(sealed(change), undefined);
});
