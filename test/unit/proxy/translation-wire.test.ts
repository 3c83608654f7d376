import test from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  decodeTranslations,
  encodeTranslations,
  FlowRewriter,
  TRANSLATION_RECORDS_MAX,
  type TranslationRecord,
  type TranslationState,
} from '../../../src/proxy/index.js';
import { FLOW_V4, FLOW_V6, flowKey } from '../../support/packets.js';

const FULL: TranslationState = {
  isn: 0x0102_0304,
  seqOffset: 0xffff_fff0,
  timestampOffset: 0x0506_0708,
  guestFin: 1,
  guestFinEnd: 0x1122_3344,
  remoteFin: 2,
  remoteFinEnd: 0x5566_7788,
};
/** Only its timestamps were set forward. */
const STAMPED: TranslationState = {
  isn: undefined,
  seqOffset: 0,
  timestampOffset: 1001,
  guestFin: 0,
  guestFinEnd: 0,
  remoteFin: 0,
  remoteFinEnd: 0,
};
const KEY = flowKey(FLOW_V4);
/** Offsets in a message of one record. */
const KEY_AT = 2;
const KIND_AT = 46;
const STATE_AT = 47;

test('every byte of an encoded record has its place', (t) => {
  const key = `0000040600000000${'00509c40'}0a000002${'00'.repeat(12)}0a000009${'00'.repeat(12)}`;
  t.is(
    encodeTranslations([
      { key: KEY, state: FULL },
      { key: KEY, state: undefined },
    ]).toString('hex'),
    `0002${key}0101${'01020304'}fffffff005060708${'01'}11223344${'02'}55667788${key}00`,
  );
});

test('records come back as they were, in memory of their own', (t) => {
  const records: TranslationRecord[] = [
    { key: KEY, state: FULL },
    { key: flowKey({ ...FLOW_V6, vlans: [4095, 1] }), state: STAMPED },
    { key: flowKey({ ...FLOW_V4, remotePort: 1 }), state: undefined },
    { key: KEY, state: { ...STAMPED, isn: 0, timestampOffset: 0 } },
  ];
  const bytes = encodeTranslations(records);
  const decoded = decodeTranslations(bytes);
  bytes.fill(0xee);
  t.deepEqual(decoded, records);
});

test('a message that is cut short or goes on is refused', (t) => {
  const bytes = encodeTranslations([{ key: KEY, state: FULL }]);
  for (let length = 0; length < bytes.length; length++) {
    t.throws(() => decodeTranslations(bytes.subarray(0, length)), { instanceOf: ProtocolError });
  }
  const longer = Buffer.concat([bytes, Buffer.alloc(1)]);
  t.throws(() => decodeTranslations(longer), { instanceOf: ProtocolError });
});

test('what no primary translates is refused', (t) => {
  const wrong: readonly [string, TranslationState, number, number][] = [
    ['UDP', FULL, KEY_AT + 3, 17],
    ['an IPv4 address of 8 bytes', FULL, KEY_AT + 19, 1],
    ['an unknown kind', FULL, KIND_AT, 2],
    ['a mark that is no boolean', FULL, STATE_AT, 2],
    ['an isn that is marked as absent', FULL, STATE_AT, 0],
    ['a sequence offset without isn', STAMPED, STATE_AT + 5, 1],
    ['a FIN in no known state', FULL, STATE_AT + 13, 3],
    ['the end of no FIN', STAMPED, STATE_AT + 14, 1],
    ["the remote's FIN in no known state", FULL, STATE_AT + 18, 255],
    ["the end of no FIN of the remote's", STAMPED, STATE_AT + 19, 1],
  ];
  for (const [name, state, at, value] of wrong) {
    const bytes = encodeTranslations([{ key: KEY, state }]);
    t.notThrows(() => decodeTranslations(bytes));
    bytes.writeUInt8(value, at);
    t.throws(() => decodeTranslations(bytes), { instanceOf: ProtocolError }, name);
  }
  const nothing = encodeTranslations([{ key: KEY, state: { ...STAMPED, timestampOffset: 0 } }]);
  t.throws(() => decodeTranslations(nothing), { instanceOf: ProtocolError });
});

test('a count of none or too many is refused before anything is made of it', (t) => {
  for (const count of [0, TRANSLATION_RECORDS_MAX + 1, 0xffff]) {
    const bytes = encodeTranslations([{ key: KEY, state: FULL }]);
    bytes.writeUInt16BE(count, 0);
    t.throws(() => decodeTranslations(bytes), { instanceOf: ProtocolError, message: /message of/ });
  }
});

test('a table without end is refused, and a record for one that is known is not', (t) => {
  const rewriter = new FlowRewriter({ vnetBytes: 0, flowsMax: 2 });
  const keep = (remotePort: number): void =>
    rewriter.keep({ key: flowKey({ ...FLOW_V4, remotePort }), state: STAMPED });
  keep(1);
  keep(2);
  keep(2);
  t.throws(() => keep(3), { instanceOf: ProtocolError });
  t.is(rewriter.counters.flows, 2);
});
