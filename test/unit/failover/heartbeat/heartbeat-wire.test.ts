import test from 'ava';
import fc from 'fast-check';
import {
  createHeartbeatSeal,
  decodeHeartbeat,
  encodeHeartbeat,
  HEARTBEAT_BYTES,
  HEARTBEAT_KEY_BYTES,
  type HeartbeatMessage,
} from '../../../../src/failover/index.js';

const SECRET = Buffer.from(Array.from({ length: HEARTBEAT_KEY_BYTES }, (_, at) => at));
const OURS = createHeartbeatSeal(SECRET, 'offering');
const THEIRS = createHeartbeatSeal(SECRET, 'accepting');
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

test('every message survives its bytes, both ways', (t) => {
  fc.assert(
    fc.property(message, (sent) => {
      t.deepEqual(decodeHeartbeat(encodeHeartbeat(sent, OURS), THEIRS), sent);
      t.deepEqual(decodeHeartbeat(encodeHeartbeat(sent, THEIRS), OURS), sent);
    }),
  );
});

const SENT = {
  kind: 'heartbeat',
  sequence: 5,
  asks: true,
  token: 7,
  session: 2,
  lan: true,
} as const;

test('any change of any bit and any other length is no heartbeat', (t) => {
  const bytes = encodeHeartbeat(SENT, OURS);
  t.is(bytes.length, HEARTBEAT_BYTES);
  t.is(bytes.subarray(0, 4).toString(), 'COHB');
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const changed = Buffer.from(bytes);
    changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    t.is(decodeHeartbeat(changed, THEIRS), undefined, `bit ${bit}`);
  }
  for (let length = 0; length < bytes.length; length += 1) {
    t.is(decodeHeartbeat(bytes.subarray(0, length), THEIRS), undefined);
  }
  t.is(decodeHeartbeat(Buffer.concat([bytes, Buffer.alloc(1)]), THEIRS), undefined);
});

test('a heartbeat thrown back at its sender, or of another session, is none', (t) => {
  const bytes = encodeHeartbeat(SENT, OURS);
  t.is(decodeHeartbeat(bytes, OURS), undefined);
  const other = Buffer.from(SECRET);
  other.writeUInt8(1, HEARTBEAT_KEY_BYTES - 1);
  t.is(decodeHeartbeat(bytes, createHeartbeatSeal(other, 'accepting')), undefined);
});

test('nothing of the secret is in a datagram', (t) => {
  const secret = SECRET.toString('latin1');
  const text = encodeHeartbeat(SENT, OURS).toString('latin1');
  for (let at = 0; at + 4 <= secret.length; at += 1) {
    t.false(text.includes(secret.slice(at, at + 4)));
  }
});

test('a heartbeat of version 1, which had the key in it, is refused', (t) => {
  const bytes = Buffer.alloc(52);
  bytes.write('COHB');
  bytes.writeUInt8(1, 4);
  bytes.writeUInt8(1, 5);
  SECRET.copy(bytes, 8, 0, 16);
  t.is(decodeHeartbeat(bytes, THEIRS), undefined);
  // The same version in today's layout, by somebody who has the key.
  t.is(
    sealed((changed) => changed.writeUInt8(1, 4)),
    undefined,
  );
});

/** Fields of our choice, under a seal that is right. */
function sealed(change: (bytes: Buffer) => void): HeartbeatMessage | undefined {
  const bytes = encodeHeartbeat({ kind: 'confirmation', sequence: 5, token: 7 }, OURS);
  change(bytes);
  OURS.sign(bytes.subarray(0, 40)).copy(bytes, 40);
  return decodeHeartbeat(bytes, THEIRS);
}

test('fields out of range are refused although the seal is right', (t) => {
  t.deepEqual(
    sealed(() => {}),
    { kind: 'confirmation', sequence: 5, token: 7 },
  );
  const changes: ((bytes: Buffer) => void)[] = [
    (bytes) => bytes.writeUInt8(3, 4),
    (bytes) => bytes.writeUInt8(0, 5),
    (bytes) => bytes.writeUInt8(3, 5),
    (bytes) => bytes.writeUInt8(1, 6),
    (bytes) => bytes.writeUInt8(1, 7),
    (bytes) => bytes.writeUInt8(0x20, 16),
    (bytes) => bytes.writeUInt8(0x20, 24),
    (bytes) => bytes.writeUInt8(1, 39),
  ];
  for (const change of changes) t.is(sealed(change), undefined);
});
