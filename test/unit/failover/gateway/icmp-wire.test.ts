import test from 'ava';
import { encodeEcho, isEchoReply } from '../../../../src/failover/gateway/icmp-wire.js';

const NONCE = Buffer.from('a1b2c3d4e5f60708', 'hex');

/** IPv4 with `words` 32-bit words of header. */
function ipv4(message: Buffer, words = 5): Buffer {
  const header = Buffer.alloc(words * 4);
  header.writeUInt8(0x40 + words, 0);
  return Buffer.concat([header, message]);
}

function reply(family: 4 | 6): Buffer {
  const message = encodeEcho(family, NONCE, 9);
  message.writeUInt8(family === 4 ? 0 : 129, 0);
  return message;
}

test('an echo request over IPv4 has type 8 and a checksum that comes to nothing', (t) => {
  const bytes = encodeEcho(4, NONCE, 0x1_0002);
  t.is(bytes.subarray(0, 2).toString('hex'), '0800');
  t.is(bytes.readUInt16BE(6), 2);
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  t.is((sum & 0xffff) + (sum >>> 16), 0xffff);
  t.is(encodeEcho(6, NONCE, 1).subarray(0, 4).toString('hex'), '80000000');
});

test('a reply is known by its nonce, behind an IP header of any length', (t) => {
  t.true(isEchoReply(4, ipv4(reply(4)), NONCE));
  t.true(isEchoReply(4, ipv4(reply(4), 15), NONCE));
  t.true(isEchoReply(6, reply(6), NONCE));
  t.false(isEchoReply(4, ipv4(encodeEcho(4, NONCE, 9)), NONCE));
  t.false(isEchoReply(6, reply(4), NONCE));
  t.false(isEchoReply(4, ipv4(reply(4)), Buffer.alloc(8)));
});

test('a packet that is cut anywhere, or lies about its header, is no reply', (t) => {
  const packet = ipv4(reply(4));
  for (let length = 0; length < packet.length; length += 1) {
    t.false(isEchoReply(4, packet.subarray(0, length), NONCE));
  }
  for (const first of [0x00, 0x44, 0x4f, 0x65]) {
    const lying = Buffer.from(packet);
    lying.writeUInt8(first, 0);
    t.false(isEchoReply(4, lying, NONCE));
  }
});
