import test from 'ava';
import { ProtocolError } from '../../../../src/lib/index.js';
import { CaptureFileDecoder } from '../../../../src/proxy/capture/capture-decoder.js';
import { BLOCK_BYTES_MAX, INTERFACES_MAX } from '../../../../src/proxy/capture/limits.js';
import { PcapngDecoder } from '../../../../src/proxy/capture/pcapng-wire.js';
import {
  block,
  cutAt,
  decodeAll,
  interfaceBlock,
  packetBlock,
  section,
  uint16,
  uint32,
} from './support.js';

const MALFORMED = { instanceOf: ProtocolError };
const FRAME = Buffer.from('00112233445566778899aabb08004500', 'hex');
const TIME_US = 1_700_000_000_123_456n;

function read(...parts: Buffer[]) {
  return decodeAll(new PcapngDecoder(), [Buffer.concat(parts)]);
}

for (const order of ['little', 'big'] as const) {
  const head = [section(order), interfaceBlock(order)];
  const packet = packetBlock(order, { units: TIME_US, bytes: FRAME });

  test(`a packet survives a file, ${order}-endian`, (t) => {
    const odd = packetBlock(order, { units: TIME_US + 1n, bytes: FRAME.subarray(0, 15) });
    const time = Number(TIME_US);
    t.deepEqual(read(...head, packet, odd), [
      { timeUs: time, hex: FRAME.toString('hex'), lengthBytes: 16, linkType: 1 },
      { timeUs: time + 1, hex: FRAME.toString('hex', 0, 15), lengthBytes: 15, linkType: 1 },
    ]);
  });

  test(`a file is the same split at every offset, and whole only between blocks, ${order}`, (t) => {
    const unknown = block(0x0bad, Buffer.alloc(40, 1), order);
    const parts = [...head, packet, unknown, packet, section(order), interfaceBlock(order, 113)];
    const bytes = Buffer.concat([...parts, packet]);
    const whole = decodeAll(new CaptureFileDecoder(), [bytes]);
    t.deepEqual(
      whole.map(({ linkType }) => linkType),
      [1, 1, 113],
    );
    const ends = new Set<number>();
    for (let at = 0; at < bytes.length; ends.add(at)) {
      at += order === 'little' ? bytes.readUInt32LE(at + 4) : bytes.readUInt32BE(at + 4);
    }
    for (let at = 0; at < bytes.length; at++) {
      t.deepEqual(decodeAll(new CaptureFileDecoder(), cutAt(bytes, [at])), whole);
      const decoder = new CaptureFileDecoder();
      decoder.write(bytes.subarray(0, at));
      if (ends.has(at)) t.notThrows(() => decoder.end());
      else t.throws(() => decoder.end(), MALFORMED, `${at} bytes`);
    }
  });

  test(`times are read in the units of their interface, ${order}-endian`, (t) => {
    const offset = Buffer.alloc(8);
    if (order === 'little') offset.writeBigInt64LE(-2n);
    else offset.writeBigInt64BE(-2n);
    const faces = [
      interfaceBlock(order, 1, [[9, Buffer.from([9])]]),
      interfaceBlock(order, 1, [[9, Buffer.from([0x80 | 10])]]),
      interfaceBlock(order, 1, [
        [2, Buffer.from('eth0')],
        [14, offset],
      ]),
    ];
    const packets = [
      packetBlock(order, { face: 0, units: 1_500_000_999n, bytes: FRAME }),
      packetBlock(order, { face: 1, units: 1536n, bytes: FRAME }),
      packetBlock(order, { face: 2, units: 3_500_000n, bytes: FRAME }),
    ];
    t.deepEqual(
      read(section(order), ...faces, ...packets).map(({ timeUs }) => timeUs),
      [1_500_000, 1_500_000, 1_500_000],
    );
  });

  test(`the older packet block is read, ${order}-endian`, (t) => {
    const fields = [0, 77, FRAME.length, FRAME.length].map((field) => uint32(field, order));
    const body = Buffer.concat([uint16(0, order), uint16(9, order), ...fields, FRAME]);
    t.deepEqual(read(...head, block(2, body, order)), [
      { timeUs: 77, hex: FRAME.toString('hex'), lengthBytes: 16, linkType: 1 },
    ]);
  });

  test(`lengths that lie are refused, ${order}-endian`, (t) => {
    const refused = (message: RegExp, ...parts: Buffer[]): void => {
      t.throws(() => read(...head, ...parts), { ...MALFORMED, message });
    };
    const body = Buffer.alloc(32);
    for (const lengthBytes of [0, 4, 8, 11, 13, 45, 0xffff_ffff]) {
      refused(/length of/, block(6, body, order, { lengthBytes }));
    }
    refused(/ends with a length of 40/, block(6, body, order, { again: 40 }));
    const long = block(6, body, order, { lengthBytes: BLOCK_BYTES_MAX + 4 });
    refused(/exceeds/, long);
    for (const capturedBytes of [17, 262_145, 0xffff_ffff]) {
      const lying = packetBlock(order, { units: 0n, bytes: FRAME, capturedBytes });
      refused(/exceeds|does not fit/, lying);
    }
    refused(/no header/, block(6, Buffer.alloc(16), order));
    refused(/interface 1, unknown/, packetBlock(order, { face: 1, units: 0n, bytes: FRAME }));
    refused(/is cut/, block(1, Buffer.alloc(4), order));
    const option = [Buffer.alloc(8), uint16(9, order), uint16(5, order)];
    refused(/option ends/, block(1, Buffer.concat(option), order));
    refused(/has no time/, block(3, Buffer.concat([uint32(4, order), FRAME]), order));
    const slow = interfaceBlock(order, 1, [[9, Buffer.from([0])]]);
    const late = packetBlock(order, { face: 1, units: 2n ** 63n, bytes: FRAME });
    refused(/no possible time/, slow, late);
    refused(/More than/, ...Array.from({ length: INTERFACES_MAX }, () => interfaceBlock(order)));
    refused(/version 2/, section(order, 2));
  });

  test(`a skipped block of 4 GiB costs no memory, ${order}-endian`, (t) => {
    const decoder = new PcapngDecoder();
    decoder.write(Buffer.concat(head));
    const huge = block(0x0bad, Buffer.alloc(0), order, { lengthBytes: 0xffff_fffc });
    decoder.write(huge);
    const before = process.memoryUsage().arrayBuffers;
    const zeroes = Buffer.alloc(1 << 20);
    for (let mebibytes = 0; mebibytes < 64; mebibytes++) decoder.write(zeroes);
    t.true(process.memoryUsage().arrayBuffers - before < 8 << 20);
    t.throws(() => decoder.end(), MALFORMED);
  });
}

test('a section of the other byte order may follow', (t) => {
  const parts = (['little', 'big', 'little'] as const).flatMap((order) => [
    section(order),
    interfaceBlock(order),
    packetBlock(order, { units: 5n, bytes: FRAME }),
  ]);
  t.is(read(...parts).length, 3);
});

test('a byte order that is none is refused', (t) => {
  const bytes = section('little');
  bytes.writeUInt32LE(0x1a2b_3c4e, 8);
  t.throws(() => read(bytes), { ...MALFORMED, message: /byte order/ });
});
