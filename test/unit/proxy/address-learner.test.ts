import test from 'ava';
import { ProtocolError } from '../../../src/lib/index.js';
import {
  AddressLearner,
  decodeAddresses,
  encodeAddresses,
  type GuestAddress,
} from '../../../src/proxy/index.js';

const MAC = '525400123456';
const OTHER_MAC = '525400abcdef';
const V4 = '0a000005';
const V6 = '20010db8000000000000000000000005';
const LINK_LOCAL = 'fe80000000000000505400fffe123456';

function hex(...parts: string[]): Buffer {
  return Buffer.from(parts.join(''), 'hex');
}

function arp(senderIp: string, senderMac = MAC, tag = ''): Buffer {
  return hex(
    'ffffffffffff',
    MAC,
    tag,
    '0806',
    '0001080006040001',
    senderMac,
    senderIp,
    '000000000000',
    '0a000001',
  );
}

function ipv4(source: string): Buffer {
  return hex(
    '525400000001',
    MAC,
    '0800',
    '4500001c0000400040110000',
    source,
    '0a000001',
    '00'.repeat(8),
  );
}

function ipv6(source: string, nextHeader = '11', payload = '00'.repeat(8)): Buffer {
  const length = (payload.length / 2).toString(16).padStart(4, '0');
  return hex(
    '525400000001',
    MAC,
    '86dd',
    '60000000',
    length,
    nextHeader,
    'ff',
    source,
    V6,
    payload,
  );
}

function neighbourAdvertisement(target: string, flags: string): Buffer {
  return ipv6(LINK_LOCAL, '3a', `88000000${flags}${target}`);
}

function learned(...frames: Buffer[]): string[] {
  const learner = new AddressLearner();
  for (const frame of frames) learner.learn(frame);
  return learner.addresses().map(describe);
}

function describe(address: GuestAddress): string {
  const { mac, vlan, ip, confirmed, router } = address;
  const flags = `${confirmed ? ' confirmed' : ''}${router ? ' router' : ''}`;
  return `${mac.toString('hex')}/${vlan} ${ip.toString('hex')}${flags}`;
}

test('the sender of an ARP message is confirmed', (t) => {
  t.deepEqual(learned(arp(V4)), [`${MAC}/0 ${V4} confirmed`]);
});

test('a tagged frame is learned with its VLAN, without the priority bits', (t) => {
  t.deepEqual(learned(arp(V4, MAC, '8100a064')), [`${MAC}/100 ${V4} confirmed`]);
});

test('source addresses of packets are learned, unconfirmed', (t) => {
  t.deepEqual(learned(ipv4(V4), ipv6(V6)), [`${MAC}/0 ${V4}`, `${MAC}/0 ${V6}`]);
});

test('neighbour discovery confirms: solicitation by its source, advertisement by its target', (t) => {
  const solicitation = ipv6(LINK_LOCAL, '3a', `8700000000000000${V6}`);
  t.deepEqual(learned(solicitation), [`${MAC}/0 ${LINK_LOCAL} confirmed`]);
  t.deepEqual(learned(neighbourAdvertisement(V6, '60000000')), [`${MAC}/0 ${V6} confirmed`]);
});

test('a router is known by its advertisements', (t) => {
  t.deepEqual(learned(neighbourAdvertisement(V6, 'e0000000')), [`${MAC}/0 ${V6} confirmed router`]);
  const routerAdvertisement = ipv6(LINK_LOCAL, '3a', `86000000${'00'.repeat(12)}`);
  t.deepEqual(learned(routerAdvertisement), [`${MAC}/0 ${LINK_LOCAL} confirmed router`]);
});

test('an address that is known becomes confirmed and a router when the guest says so', (t) => {
  const advertisement = neighbourAdvertisement(V6, 'e0000000');
  t.deepEqual(learned(ipv6(V6), advertisement), [`${MAC}/0 ${V6} confirmed router`]);
  t.deepEqual(learned(advertisement, ipv6(V6)), [`${MAC}/0 ${V6} confirmed router`]);
});

test('addresses that no host has leave only the MAC', (t) => {
  for (const frame of [
    arp('00000000'),
    arp('7f000001'),
    ipv4('e0000001'),
    ipv4('ffffffff'),
    ipv6('00'.repeat(16)),
    ipv6(`${'00'.repeat(15)}01`),
    ipv6(`ff02${'00'.repeat(13)}01`),
  ]) {
    t.deepEqual(learned(frame), [`${MAC}/0 `]);
  }
});

test('an ARP message for another MAC than the frame has confirms nothing', (t) => {
  t.deepEqual(learned(arp(V4, OTHER_MAC)), [`${MAC}/0 `]);
});

test('group and zero source MACs, and frames too short for a header, are ignored', (t) => {
  const multicast = hex('ffffffffffff', '0100000000aa', '0800');
  const zero = hex('ffffffffffff', '000000000000', '0800');
  t.deepEqual(learned(multicast, zero, Buffer.alloc(13, 2)), []);
});

test('a frame cut at any byte is no error', (t) => {
  for (const frame of [arp(V4), ipv4(V4), ipv6(V6), neighbourAdvertisement(V6, '60000000')]) {
    for (let length = 0; length <= frame.length; length++) {
      t.notThrows(() => learned(frame.subarray(0, length)));
    }
  }
});

test('the first IP address replaces the bare MAC, and a bare frame adds none', (t) => {
  const bare = hex('ffffffffffff', MAC, '88b5');
  t.deepEqual(learned(bare, arp(V4), bare), [`${MAC}/0 ${V4} confirmed`]);
});

test('what a routing guest forwards is not announced once its own address is confirmed', (t) => {
  const learner = new AddressLearner();
  learner.learn(ipv4('08080808'));
  t.deepEqual(learner.announceable().map(describe), [`${MAC}/0 08080808`]);
  learner.learn(arp(V4));
  learner.learn(ipv6(V6));
  t.deepEqual(learner.announceable().map(describe), [`${MAC}/0 ${V4} confirmed`, `${MAC}/0 ${V6}`]);
});

test('the table is bounded: the least recently used unconfirmed address goes first', (t) => {
  const learner = new AddressLearner(3);
  learner.learn(arp(V4));
  learner.learn(ipv4('0a000006'));
  learner.learn(ipv4('0a000007'));
  learner.learn(ipv4('0a000006'));
  learner.learn(ipv4('0a000008'));
  t.deepEqual(
    learner.addresses().map((address) => address.ip.toString('hex')),
    [V4, '0a000006', '0a000008'],
  );
});

test('what is encoded decodes to the same, and merges with what is known', (t) => {
  const primary = new AddressLearner();
  primary.learn(arp(V4, MAC, '81000005'));
  primary.learn(neighbourAdvertisement(V6, 'e0000000'));
  const secondary = new AddressLearner();
  secondary.learn(ipv6(V6));
  secondary.merge(decodeAddresses(encodeAddresses(primary.addresses())));
  t.deepEqual(secondary.addresses().map(describe), [
    `${MAC}/0 ${V6} confirmed router`,
    `${MAC}/5 ${V4} confirmed`,
  ]);
});

test('a learned address does not change with the frame it was read from', (t) => {
  const frame = arp(V4);
  const learner = new AddressLearner();
  learner.learn(frame);
  frame.fill(0xff);
  t.deepEqual(learner.addresses().map(describe), [`${MAC}/0 ${V4} confirmed`]);
});

test('malformed address lists are refused', (t) => {
  const good = hex('0001', MAC, '0000', '01', '04', V4);
  t.is(decodeAddresses(good).length, 1);
  for (const bad of [
    hex('0021'),
    hex('0001', '0100000000aa', '0000', '01', '04', V4),
    hex('0001', MAC, '1000', '01', '04', V4),
    hex('0001', MAC, '0000', '04', '04', V4),
    hex('0001', MAC, '0000', '01', '05', V4, '00'),
    hex('0001', MAC, '0000', '01', '04', 'ffffffff'),
    Buffer.concat([good, Buffer.alloc(1)]),
    good.subarray(0, good.length - 1),
    Buffer.alloc(0),
  ]) {
    t.throws(() => decodeAddresses(bad), { instanceOf: ProtocolError });
  }
});
