import test from 'ava';
import {
  DISK_DATA_BYTES_MAX,
  DISK_MESSAGE_TYPE,
  decodeDiskMessage,
  encodeDiskMessage,
} from '../../../src/blockrep/index.js';
import { ProtocolError } from '../../../src/lib/index.js';

test('the write message is what its table says', (t) => {
  const data = Buffer.from('data');
  const { type, parts } = encodeDiskMessage({
    kind: 'write',
    epoch: 5,
    disk: 2,
    offset: 512,
    data,
  });
  t.is(type, 0x30);
  t.is(Buffer.concat(parts).toString('hex'), '00000000000000050002000000000000020064617461');
  t.is(parts[1], data, 'the data is not copied');
});

test('data of the largest size is accepted, one byte more is not', (t) => {
  for (const type of [DISK_MESSAGE_TYPE.write, DISK_MESSAGE_TYPE.sync]) {
    const head = type === DISK_MESSAGE_TYPE.write ? 18 : 10;
    const payload = Buffer.alloc(head + DISK_DATA_BYTES_MAX + 1);
    t.notThrows(() => decodeDiskMessage(type, payload.subarray(0, -1)));
    t.throws(() => decodeDiskMessage(type, payload), { instanceOf: ProtocolError });
  }
});

test('ranges of nothing or beyond 2^53, unknown disks and types are refused', (t) => {
  const zero = (offset: bigint, length: bigint, disk = 0) => {
    const bytes = Buffer.alloc(26);
    bytes.writeUInt16BE(disk, 8);
    bytes.writeBigUInt64BE(offset, 10);
    bytes.writeBigUInt64BE(length, 18);
    return bytes;
  };
  const max = 2n ** 53n - 1n;
  t.notThrows(() => decodeDiskMessage(0x31, zero(max - 1n, 1n)));
  for (const payload of [zero(0n, 0n), zero(max, 1n), zero(max + 1n, 1n), zero(0n, 1n, 64)]) {
    t.throws(() => decodeDiskMessage(0x31, payload), { instanceOf: ProtocolError });
  }
  t.throws(() => decodeDiskMessage(0x36, zero(0n, 1n)), { instanceOf: ProtocolError });
});
