import test from 'ava';
import {
  encodeAnnouncement,
  forEachFrame,
  type GuestAddress,
  VNET_HEADER_BYTES,
} from '../../../src/proxy/index.js';

const MAC = '525400123456';
const V4 = 'c0a80117';
const V6 = '20010db8000000000000000000000005';

/** Frames in hex, without their virtio_net_hdr, which leaves nothing to the receiver. */
function announced(ip: string, other: Partial<GuestAddress> = {}): string[] {
  const frames: string[] = [];
  const address: GuestAddress = {
    mac: Buffer.from(MAC, 'hex'),
    vlan: 0,
    ip: Buffer.from(ip, 'hex'),
    confirmed: true,
    router: false,
    ...other,
  };
  forEachFrame(encodeAnnouncement([address]), (frame) => {
    const hex = frame.toString('hex');
    if (!hex.startsWith('00'.repeat(VNET_HEADER_BYTES))) throw new Error(`Unfinished: ${hex}`);
    frames.push(hex.slice(2 * VNET_HEADER_BYTES));
  });
  return frames;
}

/** RFC 1071 in another way than the code under test: end-around carry byte pair by byte pair. */
function onesComplementSum(hex: string): number {
  let sum = 0;
  for (const pair of hex.match(/.{4}/g) ?? []) {
    sum += Number.parseInt(pair, 16);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

test('an IPv4 address is announced as ARP request and reply (RFC 5227, RFC 5944)', (t) => {
  const ethernet = `ffffffffffff${MAC}0806`;
  const padding = '00'.repeat(18);
  t.deepEqual(announced(V4), [
    `${ethernet}0001080006040001${MAC}${V4}000000000000${V4}${padding}`,
    `${ethernet}0001080006040002${MAC}${V4}${MAC}${V4}${padding}`,
  ]);
});

test('a MAC without address is announced as reverse ARP, as QEMU does', (t) => {
  t.deepEqual(announced(''), [
    `ffffffffffff${MAC}80350001080006040003${MAC}00000000${MAC}00000000${'00'.repeat(18)}`,
  ]);
});

test('an IPv6 address is announced as unsolicited neighbour advertisement (RFC 4861 4.4)', (t) => {
  const [frame = '', ...others] = announced(V6);
  t.deepEqual(others, []);
  const fields = {
    destination: frame.slice(0, 12),
    source: frame.slice(12, 24),
    type: frame.slice(24, 28),
    versionClassFlow: frame.slice(28, 36),
    payloadLength: frame.slice(36, 40),
    nextHeader: frame.slice(40, 42),
    hopLimit: frame.slice(42, 44),
    sourceIp: frame.slice(44, 76),
    destinationIp: frame.slice(76, 108),
    typeAndCode: frame.slice(108, 112),
    flags: frame.slice(116, 124),
    target: frame.slice(124, 156),
    option: frame.slice(156, 172),
  };
  t.deepEqual(fields, {
    destination: '333300000001',
    source: MAC,
    type: '86dd',
    versionClassFlow: '60000000',
    payloadLength: '0020',
    nextHeader: '3a',
    hopLimit: 'ff',
    sourceIp: V6,
    destinationIp: 'ff020000000000000000000000000001',
    typeAndCode: '8800',
    flags: '20000000',
    target: V6,
    option: `0201${MAC}`,
  });
  t.is(frame.length, 172);
});

test('the ICMPv6 checksum makes the sum over pseudo-header and message all ones', (t) => {
  for (const ip of [V6, 'fe80000000000000505400fffe123456', `fd00${'ff'.repeat(14)}`]) {
    const [frame = ''] = announced(ip);
    const pseudoHeader = `${frame.slice(44, 108)}000000200000003a`;
    t.is(onesComplementSum(pseudoHeader + frame.slice(108)), 0xffff);
  }
});

test('a router stays a router', (t) => {
  const [frame = ''] = announced(V6, { router: true });
  t.is(frame.slice(116, 124), 'a0000000');
});

test('announcements carry the VLAN tag of the address', (t) => {
  const [request = ''] = announced(V4, { vlan: 100 });
  t.is(request.slice(24, 36), '810000640806');
  t.is(request.length / 2, 60);
});

test('without addresses there is nothing to announce', (t) => {
  t.is(encodeAnnouncement([]).length, 0);
});
