import test from 'ava';
import { ByteReader, ByteWriter, crc32c, ProtocolError } from '../../../src/lib/index.js';

test('what a writer wrote a reader reads, field by field', (t) => {
  const bytes = new ByteWriter(1)
    .uint8(7)
    .uint16(0xabcd)
    .uint32(0xdeadbeef)
    .uint53(Number.MAX_SAFE_INTEGER)
    .text('grüß')
    .bytes(Buffer.from([1, 2]))
    .finish();
  const reader = new ByteReader(bytes);
  t.is(reader.uint8(), 7);
  t.is(reader.uint16(), 0xabcd);
  t.is(reader.uint32(), 0xdeadbeef);
  t.is(reader.uint53(), Number.MAX_SAFE_INTEGER);
  t.is(reader.text(16), 'grüß');
  t.deepEqual([...reader.rest()], [1, 2]);
  t.notThrows(() => reader.end());
});

test('truncated fields, trailing bytes, oversized texts and unsafe integers are refused', (t) => {
  t.throws(() => new ByteReader(Buffer.alloc(3)).uint32(), { instanceOf: ProtocolError });
  t.throws(() => new ByteReader(Buffer.alloc(1)).end(), { instanceOf: ProtocolError });
  t.throws(() => new ByteReader(Buffer.alloc(8, 0xff)).uint53(), { instanceOf: ProtocolError });
  const text = new ByteWriter().text('abcd').finish();
  t.throws(() => new ByteReader(text).text(3), { instanceOf: ProtocolError });
});

test('crc32c matches the check value of the Castagnoli polynomial', (t) => {
  t.is(crc32c(Buffer.from('123456789')), 0xe3069283);
  t.is(crc32c(Buffer.from('6789'), crc32c(Buffer.from('12345'))), 0xe3069283);
});
