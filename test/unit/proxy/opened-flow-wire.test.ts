import test from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  decodeOpenedFlow,
  encodeOpenedFlow,
  OPENED_FLOW_BYTES,
  type OpenedFlow,
} from '../../../src/proxy/index.js';
import { FLOW_V4, FLOW_V6, flowKey } from '../../support/packets.js';

const PLAIN: OpenedFlow = {
  key: flowKey(FLOW_V4),
  primaryIsn: 0x1234_5678,
  secondaryIsn: 0xffff_ffff,
  timestamps: undefined,
};
const STAMPED: OpenedFlow = {
  key: flowKey({ ...FLOW_V6, guestPort: 65_535, vlans: [4095, 4095] }),
  primaryIsn: 0,
  secondaryIsn: 1,
  timestamps: { primary: 0xffff_ffff, secondary: 0 },
};

test('every byte of an encoded flow has its place', (t) => {
  const zeros = '000000000000000000000000';
  t.is(
    encodeOpenedFlow(PLAIN).toString('hex'),
    `00000406000000000050${'9c40'}0a000002${zeros}0a000009${zeros}12345678ffffffff00${'00'.repeat(8)}`,
  );
});

test('flows come back as they were, in memory of their own', (t) => {
  for (const flow of [PLAIN, STAMPED]) {
    const bytes = encodeOpenedFlow(flow);
    t.is(bytes.length, OPENED_FLOW_BYTES);
    const decoded = decodeOpenedFlow(bytes);
    bytes.fill(0xee);
    t.deepEqual(decoded, flow);
  }
});

test('a flow that is cut short or goes on is refused', (t) => {
  const bytes = encodeOpenedFlow(STAMPED);
  for (let length = 0; length < bytes.length; length++) {
    t.throws(() => decodeOpenedFlow(bytes.subarray(0, length)), { instanceOf: ProtocolError });
  }
  const longer = Buffer.concat([bytes, Buffer.alloc(1)]);
  t.throws(() => decodeOpenedFlow(longer), { instanceOf: ProtocolError });
});

test('what no comparer can report is refused', (t) => {
  const wrong: readonly [string, OpenedFlow, number, number][] = [
    ['UDP', PLAIN, 3, 17],
    ['IP version 5', PLAIN, 2, 5],
    ['an opaque key', PLAIN, 3, 0],
    ['more than two VLAN tags', PLAIN, 4, 1],
    ['an IPv4 guest address of 8 bytes', PLAIN, 19, 1],
    ['an IPv4 remote address of 16 bytes', PLAIN, 43, 1],
    ['a mark that is no boolean', STAMPED, 52, 2],
    ['timestamps marked as absent', STAMPED, 52, 0],
    ['a timestamp where none is', PLAIN, 60, 1],
  ];
  for (const [name, flow, at, value] of wrong) {
    const bytes = encodeOpenedFlow(flow);
    bytes.writeUInt8(value, at);
    t.throws(() => decodeOpenedFlow(bytes), { instanceOf: ProtocolError }, name);
  }
});
