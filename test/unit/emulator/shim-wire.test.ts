import test from 'ava';
import { DROP_RANGES_MAX } from '../../../src/emulator/limits.js';
import {
  decodeShimAnswer,
  decodeShimReport,
  encodeDropRequest,
} from '../../../src/emulator/shim-wire.js';
import { ProtocolError } from '../../../src/lib/index.js';

test('a report tells where guest RAM is, and whether it is tracked and locked', (t) => {
  const bytes = Buffer.alloc(40);
  bytes.writeBigUInt64LE(0x7f12_3456_7000n, 0);
  bytes.writeBigUInt64LE(2n ** 33n, 8);
  bytes.writeBigUInt64LE(2n ** 64n - 1n, 16);
  bytes.writeBigUInt64LE(38n, 24);
  bytes.writeBigUInt64LE(12n, 32);
  t.deepEqual(decodeShimReport(bytes), {
    address: 0x7f12_3456_7000,
    length: 2 ** 33,
    userfaultfd: undefined,
    trackingErrno: 38,
    lockingErrno: 12,
  });
  bytes.writeBigUInt64LE(14n, 16);
  t.is(decodeShimReport(bytes).userfaultfd, 14);
  bytes.fill(0xff);
  t.throws(() => decodeShimReport(bytes), { instanceOf: ProtocolError });
});

test('a drop request is its count and its ranges', (t) => {
  const bytes = encodeDropRequest([
    { offset: 4096, length: 8192 },
    { offset: 2 ** 33, length: 4096 },
  ]);
  t.deepEqual(
    [...new BigUint64Array(Uint8Array.from(bytes).buffer)],
    [2n, 4096n, 8192n, 2n ** 33n, 4096n],
  );
});

test('a request without ranges or with more than the library takes is a bug', (t) => {
  t.throws(() => encodeDropRequest([]), { code: 'COLO_E_BUG' });
  const many = Array.from({ length: DROP_RANGES_MAX + 1 }, () => ({ offset: 0, length: 4096 }));
  t.throws(() => encodeDropRequest(many), { code: 'COLO_E_BUG' });
});

test('an answer is an errno', (t) => {
  t.is(decodeShimAnswer(Buffer.from('1600000000000000', 'hex')), 22);
});
