/** UDP, ICMP and other protocols, fragments, and frames that nobody understands. */
import test from 'ava';
import { ComparerPair } from '../../../support/comparer-pair.js';
import {
  advertisementFrame,
  arpFrame,
  echoFrame,
  ethernet,
  fragmentFrames,
  ipFrame,
  UDP,
  udpBody,
  udpFrame,
} from '../../../support/frames.js';
import { FLOW_V4, FLOW_V6, type Flow, tcpFrame } from '../../../support/packets.js';
import { data } from './tcp-cases.js';

const FLOWS: readonly (readonly [string, Flow])[] = [
  ['IPv4', FLOW_V4],
  ['IPv6', FLOW_V6],
  ['IPv4 in a VLAN', { ...FLOW_V4, vlans: [7] }],
  ['IPv6 in two VLANs with a virtio header', { ...FLOW_V6, vlans: [7, 8], vnetBytes: 10 }],
];

for (const [name, flow] of FLOWS) {
  test(`equal datagrams leave, whoever speaks first: ${name}`, (t) => {
    const pair = new ComparerPair({ flow });
    const [a, b] = [udpFrame(flow, 'answer a'), udpFrame(flow, 'answer b')];
    pair.pvm(a);
    t.deepEqual(pair.left(), []);
    pair.svm(a, b);
    t.deepEqual(pair.left(), [a]);
    pair.pvm(b);
    t.deepEqual(pair.left(), [b]);
    t.deepEqual(pair.asked, []);
  });

  test(`datagrams that differ are a mismatch at once: ${name}`, (t) => {
    const pair = new ComparerPair({ flow });
    pair.pvm(udpFrame(flow, 'answer a'));
    pair.svm(udpFrame(flow, 'answer b'));
    t.deepEqual(pair.asked, ['divergence']);
    const [found] = pair.explained;
    t.is(found?.kind, 'datagram');
    t.is(found?.offset, 7);
    t.deepEqual(found?.primary, Buffer.from('answer a'));
    t.deepEqual(found?.secondary, Buffer.from('answer b'));
    t.deepEqual(pair.left(), []);
    t.deepEqual(pair.checkpoint(), [udpFrame(flow, 'answer a')]);
  });

  test(`echo replies are compared by identifier: ${name}`, (t) => {
    const pair = new ComparerPair({ flow });
    const [a, b] = [echoFrame(flow, 1, 'ping'), echoFrame(flow, 2, 'pong')];
    pair.svm(b, a);
    pair.pvm(a, b);
    t.deepEqual(pair.left(), [a, b]);
  });

  test(`fragments follow their first one: ${name}`, (t) => {
    const pair = new ComparerPair({ flow });
    const body = udpBody(flow, Buffer.alloc(4000, 'fragments'));
    const other = udpBody({ ...flow, remotePort: 9 }, Buffer.alloc(3000, 'others'));
    const ours = fragmentFrames(flow, { protocol: UDP, body, id: 100 }, 1480);
    const ourOthers = fragmentFrames(flow, { protocol: UDP, body: other, id: 101 }, 1480);
    const theirs = fragmentFrames(flow, { protocol: UDP, body, id: 77 }, 1480);
    const theirOthers = fragmentFrames(flow, { protocol: UDP, body: other, id: 500 }, 1480);
    // Two packets of different flows, in another order.
    pair.svm(...theirOthers, ...theirs);
    pair.pvm(...ours, ...ourOthers);
    t.deepEqual(pair.left(), [...ours, ...ourOthers]);
    t.deepEqual(pair.asked, []);
  });

  test(`a fragment that differs is a mismatch: ${name}`, (t) => {
    const pair = new ComparerPair({ flow });
    const body = udpBody(flow, Buffer.alloc(4000, 'fragments'));
    const ours = fragmentFrames(flow, { protocol: UDP, body, id: 100 }, 1480);
    body.writeUInt8(1, 3500);
    const theirs = fragmentFrames(flow, { protocol: UDP, body, id: 77 }, 1480);
    pair.pvm(...ours);
    pair.svm(...theirs);
    t.deepEqual(pair.left(), ours.slice(0, 2));
    t.is(pair.explained[0]?.kind, 'datagram');
  });
}

test('headers in front of the payload are not compared', (t) => {
  const pair = new ComparerPair();
  const ours = ipFrame(FLOW_V4, { protocol: UDP, body: udpBody(FLOW_V4, 'x', 1), id: 5, ttl: 3 });
  pair.svm(udpFrame(FLOW_V4, 'x'));
  pair.pvm(ours);
  t.deepEqual(pair.left(), [ours]);
});

test('Ethernet padding is no payload', (t) => {
  const pair = new ComparerPair();
  const padded = Buffer.concat([udpFrame(FLOW_V4, 'x'), Buffer.alloc(17, 1)]);
  pair.svm(udpFrame(FLOW_V4, 'x'));
  pair.pvm(padded);
  t.deepEqual(pair.left(), [padded]);
});

test('a datagram that is longer on one side is a mismatch', (t) => {
  for (const [ours, theirs] of [
    ['abc', 'abcd'],
    ['abcd', 'abc'],
    ['', 'a'],
  ] as const) {
    const pair = new ComparerPair();
    pair.pvm(udpFrame(FLOW_V4, ours));
    pair.svm(udpFrame(FLOW_V4, theirs));
    t.is(pair.explained[0]?.kind, 'datagram');
    t.deepEqual(pair.left(), []);
  }
});

test('datagrams in another order are a mismatch', (t) => {
  const pair = new ComparerPair();
  pair.pvm(udpFrame(FLOW_V4, 'a'), udpFrame(FLOW_V4, 'b'));
  pair.svm(udpFrame(FLOW_V4, 'b'), udpFrame(FLOW_V4, 'a'));
  t.deepEqual(pair.asked, ['divergence']);
  t.deepEqual(pair.left(), []);
});

test('datagrams of other flows don’t mind', (t) => {
  const other = { ...FLOW_V4, remotePort: 53 };
  const pair = new ComparerPair();
  pair.pvm(udpFrame(FLOW_V4, 'a'), udpFrame(other, 'b'));
  pair.svm(udpFrame(other, 'b'));
  t.deepEqual(pair.left(), [udpFrame(other, 'b')]);
});

test('a datagram that the SVM does not send asks for a checkpoint in time', (t) => {
  const pair = new ComparerPair();
  pair.pvm(udpFrame(FLOW_V4, 'answer'));
  t.is(pair.comparer.deadlineUs(), pair.nowUs + 200_000);
  pair.comparer.tick(pair.nowUs + 199_999);
  t.deepEqual(pair.asked, []);
  pair.comparer.tick(pair.nowUs + 200_000);
  t.deepEqual(pair.asked, ['timeout']);
  t.is(pair.explained[0]?.kind, 'timeout');
  t.deepEqual(pair.explained[0]?.primary, Buffer.from('answer'));
  t.is(pair.comparer.deadlineUs(), undefined);
});

test('a protocol without ports is compared by its whole payload', (t) => {
  const pair = new ComparerPair();
  const gre = (text: string) => ipFrame(FLOW_V4, { protocol: 47, body: Buffer.from(text) });
  pair.pvm(gre('tunnel'), gre('other'));
  pair.svm(gre('tunnel'), gre('0ther'));
  t.deepEqual(pair.left(), [gre('tunnel')]);
  t.is(pair.explained[0]?.flow, 'protocol 47 10.0.0.2 - 10.0.0.9');
});

test('the place of a fragment is compared', (t) => {
  const pair = new ComparerPair();
  const body = Buffer.alloc(16, 1);
  pair.pvm(ipFrame(FLOW_V4, { protocol: UDP, body, offset: 8, more: true }));
  pair.svm(ipFrame(FLOW_V4, { protocol: UDP, body, offset: 8 }));
  t.is(pair.explained[0]?.kind, 'fragment');
  t.is(pair.explained[0]?.note, 'a fragment at 8 and a last fragment at 8');
});

test('a whole datagram is not what a fragment is', (t) => {
  const pair = new ComparerPair();
  pair.pvm(udpFrame(FLOW_V4, 'abcdefgh'));
  pair.svm(ipFrame(FLOW_V4, { protocol: UDP, body: udpBody(FLOW_V4, 'abcdefgh'), more: true }));
  t.is(pair.explained[0]?.kind, 'fragment');
});

test('a packet goes on in fragments over a checkpoint', (t) => {
  const pair = new ComparerPair();
  const other = { ...FLOW_V4, remotePort: 9 };
  const [a, b] = [FLOW_V4, other].map((flow, index) =>
    fragmentFrames(
      flow,
      { protocol: UDP, body: udpBody(flow, Buffer.alloc(3000, index)), id: index },
      1480,
    ),
  ) as [Buffer[], Buffer[]];
  pair.pvm(a[0] as Buffer, b[0] as Buffer);
  pair.checkpoint();
  pair.svm(...b.slice(1), ...a.slice(1));
  pair.pvm(...a.slice(1), ...b.slice(1));
  t.deepEqual(pair.left(), [...a.slice(1), ...b.slice(1)]);
});

test('TCP in fragments is compared apart from the stream', (t) => {
  const pair = new ComparerPair();
  const segment = tcpFrame(FLOW_V4, true, data(0, 400));
  const fragments = fragmentFrames(FLOW_V4, { protocol: 6, body: segment.subarray(34) }, 200);
  pair.pvm(segment, ...fragments);
  pair.svm(...fragments);
  t.deepEqual(pair.left(), fragments);
  pair.svm(segment);
  t.deepEqual(pair.left(), [segment]);
});

test('fragments of TCP are no segments, whatever the ports', (t) => {
  const pair = new ComparerPair({ flow: { ...FLOW_V4, guestPort: 0, remotePort: 0 } });
  const segment = pair.frame(data(0, 400));
  const fragments = fragmentFrames(FLOW_V4, { protocol: 6, body: segment.subarray(34) }, 200);
  pair.pvm(segment, ...fragments);
  pair.svm(...fragments, segment);
  t.deepEqual(pair.left(), [...fragments, segment]);
});

test('a fragment whose first one was not seen has no ports', (t) => {
  const pair = new ComparerPair();
  const body = Buffer.alloc(16, 1);
  const other = { ...FLOW_V4, remotePort: 9 };
  for (let id = 0; id < 600; id++) {
    const first = (flow: Flow) => ({ protocol: UDP, body: udpBody(flow, body), id, more: true });
    pair.pvm(ipFrame(FLOW_V4, first(FLOW_V4)));
    pair.svm(ipFrame(other, first(other)));
  }
  t.is(pair.left().length, 0);
  for (let id = 1000; id < 1050; id++) {
    pair.pvm(ipFrame(FLOW_V4, { protocol: UDP, body, id, offset: 24 }));
    pair.svm(ipFrame(FLOW_V4, { protocol: UDP, body, id: id + 1000, offset: 24 }));
  }
  t.is(pair.left().length, 50);
});

test('opaque frames leave when the SVM has sent an equal one, in any order', (t) => {
  const pair = new ComparerPair();
  pair.svm(arpFrame(1), arpFrame(2), arpFrame(3));
  pair.pvm(arpFrame(3), arpFrame(1), arpFrame(2));
  t.deepEqual(pair.left(), [arpFrame(3), arpFrame(1), arpFrame(2)]);
  // Each of the SVM's stands for one of the PVM's.
  pair.pvm(arpFrame(1));
  t.deepEqual(pair.left(), []);
  pair.svm(arpFrame(1));
  t.deepEqual(pair.left(), [arpFrame(1)]);
});

test('opaque frames of the PVM leave in their order', (t) => {
  const pair = new ComparerPair();
  pair.pvm(arpFrame(1), arpFrame(2));
  pair.svm(arpFrame(2));
  t.deepEqual(pair.left(), []);
  pair.svm(arpFrame(1));
  t.deepEqual(pair.left(), [arpFrame(1), arpFrame(2)]);
});

test('opaque frames that differ wait, and then ask for a checkpoint', (t) => {
  const pair = new ComparerPair();
  pair.pvm(arpFrame(1));
  pair.svm(arpFrame(2));
  t.deepEqual(pair.asked, []);
  pair.comparer.tick(pair.nowUs + 200_000);
  t.deepEqual(pair.asked, ['timeout']);
  t.is(pair.explained[0]?.flow, 'frame 0x0806 52:54:00:00:00:01 - 52:54:00:00:00:02');
  t.deepEqual(pair.checkpoint(), [arpFrame(1)]);
});

test('an opaque frame of the SVM is not kept for ever, and not without bound', (t) => {
  const pair = new ComparerPair();
  pair.svm(arpFrame(1));
  pair.nowUs += 1_000_001;
  pair.svm(arpFrame(2));
  pair.pvm(arpFrame(1));
  t.deepEqual(pair.left(), []);
  t.is(pair.comparer.counters.aheadFrames, 1);
  for (let index = 0; index < 1000; index++) pair.svm(arpFrame(index));
  t.is(pair.comparer.counters.aheadFrames, 64);
});

test('what can’t be parsed is compared whole: never dropped, never let through', (t) => {
  const udp = udpFrame(FLOW_V4, 'payload');
  const cut = udp.subarray(0, udp.length - 1);
  const badLength = Buffer.from(udp);
  badLength.writeUInt16BE(3, 38);
  const odd = [
    cut,
    badLength,
    Buffer.alloc(14),
    Buffer.alloc(20, 0xff),
    ethernet(FLOW_V4, 0x88cc, Buffer.from('LLDP')),
    ethernet(FLOW_V4, 0x0800, Buffer.alloc(19)),
    ethernet({ ...FLOW_V4, vlans: [1, 2] }, 0x8100, Buffer.alloc(1)),
    advertisementFrame(FLOW_V6),
  ];
  for (const frame of odd) {
    const pair = new ComparerPair();
    pair.pvm(frame);
    t.deepEqual(pair.left(), []);
    const other = Buffer.from(frame);
    other.writeUInt8((other[other.length - 1] as number) ^ 1, other.length - 1);
    pair.svm(other);
    t.deepEqual(pair.left(), []);
    pair.svm(frame);
    t.deepEqual(pair.left(), [frame]);
  }
});

test('frames shorter than an Ethernet or virtio header are frames like any other', (t) => {
  for (const vnetBytes of [0, 10]) {
    const pair = new ComparerPair({ vnetBytes });
    const frames = [0, 1, 9, 10, 13].map((length) => Buffer.alloc(length, 7));
    pair.pvm(...frames);
    t.deepEqual(pair.left(), []);
    pair.svm(...frames);
    t.deepEqual(pair.left(), frames);
  }
});

test('the largest frames are compared to their last byte', (t) => {
  for (const flow of [FLOW_V4, FLOW_V6]) {
    const room = flow.version === 4 ? 65_535 - 28 : 65_535 - 8;
    const ours = udpFrame(flow, Buffer.alloc(room, 1));
    const theirs = Buffer.from(ours);
    theirs.writeUInt8(2, theirs.length - 1);
    const pair = new ComparerPair();
    pair.pvm(ours);
    pair.svm(ours);
    t.deepEqual(pair.left(), [ours]);
    pair.pvm(ours);
    pair.svm(theirs);
    t.deepEqual(pair.left(), []);
    t.is(pair.explained[0]?.offset, room - 1);
  }
});
