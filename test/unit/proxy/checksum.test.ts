import test from 'ava';
import fc from 'fast-check';
import {
  adjustChecksum16,
  adjustChecksum32,
  ipv4HeaderChecksum,
  NO_CHECKSUM,
  pseudoHeaderSum,
  replaceUint16,
  replaceUint32,
  tcpChecksum,
} from '../../../src/proxy/index.js';
import { Packet } from '../../../src/proxy/packet.js';
import { ACK, FLOW_V4, FLOW_V6, tcpFrame, transportChecksumValid } from '../../support/packets.js';

test("the example of RFC 1624 section 4, which RFC 1141's equation gets wrong", (t) => {
  t.is(adjustChecksum16(0xdd2f, 0x5555, 0x3285), 0x0000);
});

test('a field of 32 bits is two words, at an odd offset with their bytes swapped', (t) => {
  const two = adjustChecksum16(adjustChecksum16(0x1234, 0xaabb, 0x0102), 0xccdd, 0x0304);
  t.is(adjustChecksum32(0x1234, 0xaabb_ccdd, 0x0102_0304), two);
  // Bytes aa bb cc dd at offsets 1 to 4 lie in the words ?aa, bbcc, dd?.
  const three = [
    [0x00aa, 0x0001],
    [0xbbcc, 0x0203],
    [0xdd00, 0x0400],
  ].reduce((sum, [before, after]) => adjustChecksum16(sum, before as number, after as number), 7);
  t.is(adjustChecksum32(7, 0xaabb_ccdd, 0x0102_0304, true), three);
});

test('an IPv4 header seen on a wire', (t) => {
  const header = Buffer.from('45000073000040004011b861c0a80001c0a800c7', 'hex');
  t.is(ipv4HeaderChecksum(header, 0), 0xb861);
  header.fill(0, 10, 12);
  t.is(ipv4HeaderChecksum(header, 0), 0xb861);
});

for (const flow of [FLOW_V4, FLOW_V6]) {
  test(`the full checksum is what IPv${flow.version} hosts send, whatever is in the field`, (t) => {
    for (const length of [0, 1, 2, 1447, 65_000]) {
      const payload = Buffer.alloc(length, 0xf3);
      const frame = tcpFrame(flow, true, { seq: 1, ack: 2, flags: ACK, payload });
      const packet = parsed(frame);
      const checksumAt = packet.transportAt + 16;
      const sent = frame.readUInt16BE(checksumAt);
      frame.writeUInt16BE(0xbeef, checksumAt);
      t.is(tcpChecksum(frame, packet), sent, `${length} bytes of payload`);
    }
  });

  test(`an offloaded checksum holds the pseudo-header's sum, IPv${flow.version}`, (t) => {
    const live = { ...flow, vnetBytes: 10 };
    const frame = tcpFrame(live, true, { seq: 1, ack: 2, flags: ACK, needsCsum: true });
    const packet = parsed(frame, live.vnetBytes);
    t.is(pseudoHeaderSum(frame, packet), frame.readUInt16BE(packet.transportAt + 16));
  });

  test(`replaced fields leave the checksum valid, IPv${flow.version}`, (t) => {
    const word = fc.oneof(
      fc.integer({ min: 0, max: 0xffff_ffff }),
      fc.constantFrom(0, 0xffff_ffff),
    );
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 40 }),
        fc.nat({ max: 40 }),
        word,
        word,
        (payload, offset, long, short) => {
          const room = Buffer.concat([Buffer.alloc(44), payload]);
          const frame = tcpFrame(flow, false, { seq: 0, flags: ACK, payload: room });
          const packet = parsed(frame);
          const checksumAt = packet.transportAt + 16;
          replaceUint32(frame, packet.payloadAt + offset, long, checksumAt);
          replaceUint16(frame, packet.transportAt + 14, short & 0xffff, checksumAt);
          t.true(transportChecksumValid(flow, frame));
          t.is(frame.readUInt32BE(packet.payloadAt + offset), long);
          t.is(frame.readUInt16BE(packet.transportAt + 14), short & 0xffff);
          t.is(tcpChecksum(frame, packet), frame.readUInt16BE(checksumAt));
        },
      ),
    );
  });
}

test('without a checksum only the field changes', (t) => {
  const bytes = Buffer.alloc(8);
  replaceUint16(bytes, 0, 0x1234, NO_CHECKSUM);
  replaceUint32(bytes, 3, 0x5678_9abc, NO_CHECKSUM);
  t.is(bytes.toString('hex'), '12340056789abc00');
});

function parsed(frame: Buffer, at = 0): Packet {
  const packet = new Packet();
  packet.parse(frame, at, frame.length, true);
  return packet;
}
