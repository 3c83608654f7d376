/** Streams: segmentation, order, repetition, acknowledgements, ends. Everything but windows. */

import test from 'ava';
import { FLOW_V6, sack, timestamps } from '../../../support/packets.js';
import { ack, Case, data, fin, rst, streamBytes, syn, synAck, tcpCase } from './tcp-cases.js';

tcpCase('data that both say leaves when the second says it', (pair) => {
  pair.pvm(data(0, 100));
  pair.leaves();
  pair.svm(data(0, 100));
  pair.leaves(data(0, 100));
  pair.agrees();
});

tcpCase('data that the SVM has said before leaves at once', (pair) => {
  pair.svm(data(0, 100));
  pair.pvm(data(0, 100));
  pair.leaves(data(0, 100));
});

tcpCase('the SVM may cut the stream into smaller segments', (pair) => {
  pair.pvm(data(0, 100));
  pair.svm(data(0, 30), data(30, 30));
  pair.leaves();
  pair.svm(data(60, 40));
  pair.leaves(data(0, 100));
});

tcpCase('the SVM may cut the stream into larger segments', (pair) => {
  pair.pvm(data(0, 30), data(30, 30));
  pair.svm(data(0, 100));
  pair.leaves(data(0, 30), data(30, 30));
  pair.pvm(data(60, 40));
  pair.leaves(data(60, 40));
  pair.agrees();
});

tcpCase('a segment waits for its last byte', (pair) => {
  pair.pvm(data(0, 100));
  pair.svm(data(0, 99));
  pair.leaves();
  pair.svm(data(99, 1));
  pair.leaves(data(0, 100));
});

tcpCase('a jumbo segment is confirmed by many small ones', (pair) => {
  const big = data(0, 65_000);
  pair.pvm(big);
  for (let at = 0; at < 65_000; at += 1000) pair.svm(data(at, 1000));
  pair.leaves(big);
});

tcpCase('sequence numbers wrap around inside a segment', (pair) => {
  const base = 0xffff_ffff - 49;
  pair.pvm(data(0, 100, { base }));
  pair.svm(data(0, 60, { base }), data(60, 60, { base }));
  pair.leaves(data(0, 100, { base }));
  pair.pvm(data(100, 20, { base }));
  pair.leaves(data(100, 20, { base }));
});

tcpCase('sequence numbers wrap around in the SVM only', (pair) => {
  pair.accept(0x1000, 0xffff_fff0);
  pair.pvm(data(0, 100, { base: 0x1001 }));
  pair.svm(data(0, 100, { base: 0xffff_fff1 }));
  pair.leaves(data(0, 100, { base: 0x1001 }));
});

tcpCase('sequence numbers wrap around in the PVM only', (pair) => {
  pair.accept(0xffff_fff0, 0x1000);
  pair.svm(data(0, 50, { base: 0x1001 }), data(50, 50, { base: 0x1001 }));
  pair.pvm(data(0, 100, { base: 0xffff_fff1 }));
  pair.leaves(data(0, 100, { base: 0xffff_fff1 }));
});

tcpCase('acknowledgements wrap around', (pair) => {
  pair.svm({ ...data(0, 10), ack: 0xffff_fff0 });
  pair.pvm({ ...data(0, 10), ack: 0xffff_fff0 });
  pair.leaves({ ...data(0, 10), ack: 0xffff_fff0 });
  const wrapped = { ...ack(0, 10), ack: 5 };
  pair.pvm(wrapped);
  pair.leaves();
  pair.svm(wrapped);
  pair.leaves(wrapped);
});

tcpCase('a byte that differs is a mismatch, and the segment does not leave', (pair, t) => {
  const other = streamBytes(0, 100);
  other.writeUInt8(0xee, 77);
  pair.pvm(data(0, 100));
  pair.svm(data(0, 100, { payload: other }));
  pair.differs('data');
  const [found] = pair.explained;
  t.is(found?.offset, 77);
  t.is(found?.flow, 'tcp 10.0.0.2:80 - 10.0.0.9:40000');
  t.deepEqual(found?.primary, streamBytes(61, 32));
  t.deepEqual(found?.secondary, other.subarray(61, 93));
  pair.leavesAtCheckpoint(data(0, 100));
});

tcpCase('the first byte of a stream may be the one that differs', (pair, t) => {
  pair.svm(data(0, 3, { payload: Buffer.from('xyz') }));
  pair.pvm(data(0, 3, { payload: Buffer.from('Xyz') }));
  pair.differs('data');
  t.is(pair.explained[0]?.offset, 0);
});

tcpCase('segments before the one that differs leave, none after it', (pair) => {
  pair.pvm(data(0, 10), data(10, 10), data(20, 10));
  pair.svm(data(0, 10), data(10, 10, { payload: streamBytes(10, 10, 1) }), data(20, 10));
  pair.leaves(data(0, 10));
  pair.differs('data');
  pair.leavesAtCheckpoint(data(10, 10), data(20, 10));
});

tcpCase('data beyond the last of the SVM is no mismatch', (pair) => {
  pair.svm(data(0, 10));
  pair.pvm(data(0, 10), data(10, 10));
  pair.leaves(data(0, 10));
  pair.agrees();
});

tcpCase('the SVM may say segments out of order', (pair) => {
  pair.pvm(data(0, 10), data(10, 10), data(20, 10));
  pair.svm(data(20, 10), data(10, 10));
  pair.leaves();
  pair.svm(data(0, 10));
  pair.leaves(data(0, 10), data(10, 10), data(20, 10));
});

tcpCase('the PVM may say segments out of order, and they leave in that order', (pair) => {
  pair.svm(data(0, 30));
  pair.pvm(data(20, 10), data(0, 10), data(10, 10));
  pair.leaves(data(20, 10), data(0, 10), data(10, 10));
  pair.agrees();
});

tcpCase('a segment in front of a gap does not let the gap through', (pair) => {
  pair.svm(data(20, 10));
  pair.pvm(data(20, 10), data(0, 20));
  pair.leaves(data(20, 10));
  pair.svm(data(0, 20));
  pair.leaves(data(0, 20));
});

tcpCase('the SVM may repeat itself before the PVM speaks', (pair) => {
  pair.svm(data(0, 10), data(0, 10), data(0, 20));
  pair.pvm(data(0, 20));
  pair.leaves(data(0, 20));
});

tcpCase('the SVM may repeat what has left', (pair) => {
  pair.pvm(data(0, 100));
  pair.svm(data(0, 100), data(0, 100), data(40, 20));
  pair.leaves(data(0, 100));
  pair.agrees();
});

tcpCase('what the SVM repeats must be what has left', (pair, t) => {
  pair.pvm(data(0, 100));
  pair.svm(data(0, 100));
  pair.leaves(data(0, 100));
  pair.svm(data(40, 20, { payload: streamBytes(40, 20, 4) }));
  pair.differs('contradiction');
  t.is(pair.explained[0]?.offset, 40);
});

tcpCase('a part of what the SVM repeats may be all that has left', (pair) => {
  pair.svm(data(10, 10));
  pair.pvm(data(10, 10));
  pair.leaves(data(10, 10));
  const other = streamBytes(0, 30);
  other.writeUInt8(0xee, 15);
  pair.svm(data(0, 30, { payload: other }));
  pair.differs('contradiction');
});

tcpCase('the SVM may not say two things in one place', (pair) => {
  pair.svm(data(0, 20), data(10, 20, { payload: streamBytes(10, 20, 2) }));
  pair.differs('contradiction');
});

tcpCase('an overlap of SVM segments with equal bytes is one stream', (pair) => {
  pair.svm(data(0, 20), data(30, 20), data(10, 60));
  pair.pvm(data(0, 70));
  pair.leaves(data(0, 70));
  pair.agrees();
});

tcpCase('an overlap of PVM segments with other bytes is a mismatch', (pair) => {
  pair.svm(data(0, 30));
  pair.pvm(data(0, 20), data(10, 20, { payload: streamBytes(10, 20, 2) }));
  pair.leaves(data(0, 20));
  pair.differs('data');
});

tcpCase('a retransmission after the release leaves at once', (pair) => {
  pair.svm(data(0, 100));
  pair.pvm(data(0, 100));
  pair.leaves(data(0, 100));
  pair.pvm(data(0, 100), data(50, 50));
  pair.leaves(data(0, 100), data(50, 50));
  pair.agrees();
});

tcpCase('a retransmission with another byte is a mismatch', (pair) => {
  pair.svm(data(0, 100));
  pair.pvm(data(0, 100));
  pair.leaves(data(0, 100));
  pair.pvm(data(0, 100, { payload: streamBytes(0, 100, 8) }));
  pair.differs('data');
});

tcpCase('a retransmission that adds new bytes waits for the new ones', (pair) => {
  pair.svm(data(0, 100));
  pair.pvm(data(0, 100));
  pair.leaves(data(0, 100));
  pair.pvm(data(50, 100));
  pair.leaves();
  pair.svm(data(100, 50));
  pair.leaves(data(50, 100));
});

tcpCase('a retransmission of what is held waits behind it', (pair) => {
  pair.pvm(data(0, 100), data(0, 100));
  pair.leaves();
  pair.svm(data(0, 100));
  pair.leaves(data(0, 100), data(0, 100));
});

tcpCase('a retransmission in larger segments than before is none the worse', (pair) => {
  pair.svm(data(0, 300));
  pair.pvm(data(0, 100), data(100, 100), data(200, 100));
  pair.leaves(data(0, 100), data(100, 100), data(200, 100));
  pair.pvm(data(50, 250));
  pair.leaves(data(50, 250));
});

tcpCase('an acknowledgement waits until the SVM has acknowledged as much', (pair) => {
  pair.pvm(ack(100));
  pair.svm(ack(99));
  pair.leaves();
  pair.svm(ack(100));
  pair.leaves(ack(100));
});

tcpCase('the SVM may delay and join acknowledgements', (pair) => {
  pair.pvm(ack(100), ack(200));
  pair.leaves();
  pair.svm(ack(200));
  pair.leaves(ack(100), ack(200));
  pair.agrees();
});

tcpCase('the PVM may delay acknowledgements', (pair) => {
  pair.svm(ack(100), ack(200), ack(300));
  pair.pvm(ack(300));
  pair.leaves(ack(300));
});

tcpCase('equal data waits until the SVM has acknowledged as much', (pair) => {
  pair.svm(data(0, 10));
  pair.pvm({ ...data(0, 10), ack: 50_100 });
  pair.leaves();
  pair.svm(ack(100, 10));
  pair.leaves({ ...data(0, 10), ack: 50_100 });
});

tcpCase('a pure acknowledgement waits behind data that is not confirmed', (pair) => {
  pair.svm(ack(500));
  pair.pvm(data(0, 10), ack(500, 10));
  pair.leaves();
  pair.svm(data(0, 10));
  pair.leaves(data(0, 10), ack(500, 10));
});

tcpCase('an older acknowledgement of the SVM takes nothing back', (pair) => {
  pair.svm(ack(500), ack(100));
  pair.pvm(ack(300));
  pair.leaves(ack(300));
});

tcpCase('SACK blocks and timestamps may differ', (pair) => {
  pair.svm(ack(100, 0, { options: timestamps(77, 3) }));
  const ours = ack(100, 0, { options: sack(50_200, 50_300) });
  pair.pvm(ours);
  pair.leaves(ours);
});

tcpCase('a keep-alive one byte back is an acknowledgement', (pair) => {
  pair.svm(data(0, 10));
  pair.pvm(data(0, 10));
  pair.leaves(data(0, 10));
  pair.pvm(ack(0, 9));
  pair.leaves(ack(0, 9));
  pair.agrees();
});

tcpCase('a keep-alive with the last byte in it is a retransmission', (pair) => {
  pair.svm(data(0, 10), data(9, 1));
  pair.pvm(data(0, 10), data(9, 1));
  pair.leaves(data(0, 10), data(9, 1));
});

tcpCase('a zero window probe with the next byte waits as any byte does', (pair) => {
  pair.svm(data(0, 10));
  pair.pvm(data(0, 10), data(10, 1));
  pair.leaves(data(0, 10));
  pair.svm(data(10, 1));
  pair.leaves(data(10, 1));
});

tcpCase('a FIN leaves when the SVM has ended there', (pair) => {
  pair.pvm(data(0, 10), fin(10));
  pair.svm(data(0, 10));
  pair.leaves(data(0, 10));
  pair.svm(fin(10));
  pair.leaves(fin(10));
});

tcpCase('a FIN may be in the last segment here and in one of its own there', (pair) => {
  const last = data(0, 10, { flags: fin(0).flags });
  pair.svm(last);
  pair.pvm(data(0, 10), fin(10));
  pair.leaves(data(0, 10), fin(10));
  pair.pvm(last);
  pair.leaves(last);
  pair.agrees();
});

tcpCase('a FIN before the data it follows', (pair) => {
  pair.svm(fin(10), data(0, 10));
  pair.pvm(data(0, 10), fin(10));
  pair.leaves(data(0, 10), fin(10));
});

tcpCase('a FIN of the PVM before the data it follows', (pair) => {
  pair.svm(data(0, 10), fin(10));
  pair.pvm(fin(10), data(0, 10));
  pair.leaves(fin(10), data(0, 10));
});

tcpCase('a FIN where the SVM has data is a mismatch', (pair) => {
  pair.svm(data(0, 20));
  pair.pvm(data(0, 10), fin(10));
  pair.leaves(data(0, 10));
  pair.differs('fin');
});

tcpCase('data where the SVM has ended is a mismatch', (pair) => {
  pair.svm(data(0, 10), fin(10));
  pair.pvm(data(0, 20));
  pair.differs('fin');
});

tcpCase('two ends in different places are a mismatch', (pair) => {
  pair.svm(data(0, 20), fin(20));
  pair.pvm(data(0, 10), fin(10));
  pair.leaves(data(0, 10));
  pair.differs('fin');
});

tcpCase('the SVM may not go on behind the end that the client saw', (pair) => {
  pair.svm(data(0, 10), fin(10));
  pair.pvm(data(0, 10), fin(10));
  pair.leaves(data(0, 10), fin(10));
  pair.svm(data(10, 5));
  pair.differs('fin');
});

tcpCase('a FIN again leaves at once', (pair) => {
  pair.svm(data(0, 10), fin(10));
  pair.pvm(data(0, 10), fin(10));
  pair.leaves(data(0, 10), fin(10));
  pair.pvm(fin(10));
  pair.leaves(fin(10));
});

tcpCase('simultaneous close: the FIN, then the acknowledgement of the other FIN', (pair) => {
  pair.pvm(fin(0), ack(1, 1));
  pair.svm(fin(0));
  pair.leaves(fin(0));
  pair.svm(ack(1, 1));
  pair.leaves(ack(1, 1));
});

tcpCase('half close: the client ended, the guest goes on', (pair) => {
  pair.pvm(ack(1), { ...data(0, 50), ack: 50_001 }, { ...fin(50), ack: 50_001 });
  pair.svm(ack(1), { ...data(0, 50), ack: 50_001 }, { ...fin(50), ack: 50_001 });
  pair.leaves(ack(1), { ...data(0, 50), ack: 50_001 }, { ...fin(50), ack: 50_001 });
});

tcpCase('a reset leaves when the SVM has reset there', (pair) => {
  pair.svm(data(0, 10));
  pair.pvm(data(0, 10), rst(10));
  pair.leaves(data(0, 10));
  pair.svm(rst(10));
  pair.leaves(rst(10));
});

tcpCase('resets where the two streams end differently are a mismatch', (pair) => {
  pair.svm(data(0, 20), rst(20));
  pair.pvm(data(0, 10), rst(10));
  pair.leaves(data(0, 10));
  pair.differs('reset');
});

tcpCase('data where the SVM was reset is a mismatch', (pair) => {
  pair.svm(data(0, 10), rst(10));
  pair.pvm(data(0, 20));
  pair.differs('fin');
});

tcpCase('answers of a closed port are compared as they are', (pair) => {
  const answer = (to: number) => ({ seq: 0, ack: to, flags: rst(0).flags | ack(0).flags });
  pair.pvm(answer(700));
  pair.svm(answer(700));
  pair.leaves(answer(700));
  pair.pvm(answer(900));
  pair.leaves();
  pair.svm(answer(900));
  pair.leaves(answer(900));
  pair.agrees();
});

tcpCase('a reset of a connection with two initial sequence numbers', (pair) => {
  pair.accept(5000, 9000);
  pair.pvm(rst(0, { base: 5001 }));
  pair.svm(rst(0, { base: 9001 }));
  pair.leaves(rst(0, { base: 5001 }));
});

tcpCase('an end right after the opening is held until the SVM ends there, too', (pair) => {
  pair.accept(9000, 100);
  pair.pvm(fin(0, { base: 9001 }));
  pair.agrees();
  pair.svm(fin(0, { base: 101 }));
  pair.leaves(fin(0, { base: 9001 }));
});

tcpCase('different resets are remembered, but not without bound', (pair, t) => {
  for (let at = 0; at < 20; at++) pair.svm(rst(at), rst(at));
  t.is(pair.comparer.counters.aheadFrames, 8);
  pair.pvm(rst(19), rst(12), rst(11));
  pair.leaves(rst(19), rst(12));
});

tcpCase('a reset that the SVM does not send waits for the checkpoint', (pair, t) => {
  pair.pvm(rst(10));
  pair.svm(data(0, 10));
  pair.leaves();
  pair.nowUs += 200_000;
  pair.comparer.tick(pair.nowUs);
  t.deepEqual(pair.asked, ['timeout']);
  pair.leavesAtCheckpoint(rst(10));
});

tcpCase('another flow goes on while one is stopped', (pair, t) => {
  pair.svm(data(0, 10, { payload: streamBytes(0, 10, 1) }));
  pair.pvm(data(0, 10));
  pair.differs('data');
  const other = new Case(t, { flow: { ...pair.flow, remotePort: 40_001 } }).frame(data(0, 10));
  pair.pvm(other);
  pair.svm(other);
  t.deepEqual(pair.left(), [other]);
});

test('streams over IPv6 in VLANs with virtio headers are compared the same way', (t) => {
  const pair = new Case(t, { flow: { ...FLOW_V6, vlans: [5, 6], vnetBytes: 10 } });
  pair.accept(1, 0xffff_ffff);
  pair.pvm(data(0, 100, { base: 2 }), fin(100, { base: 2 }));
  pair.svm(data(0, 100, { base: 0 }), fin(100, { base: 0 }));
  pair.leaves(data(0, 100, { base: 2 }), fin(100, { base: 2 }));
  pair.pvm(syn(77));
  pair.svm(synAck(78));
  pair.differs('opening');
  const text = 'tcp [fd00:0:0:0:0:0:0:2]:80 - [fd00:0:0:0:0:0:0:9]:40000 vlan 5 inner vlan 6';
  t.is(pair.explained[0]?.flow, text);
});

test('a virtio header is no part of what is compared', (t) => {
  const pair = new Case(t, { flow: { ...FLOW_V6, vnetBytes: 10 } });
  const partial = data(0, 10, { needsCsum: true });
  pair.svm(data(0, 10));
  pair.pvm(partial);
  pair.leaves(partial);
});

test('a sequence number as far back as it can be is no reason to let a byte through', (t) => {
  const pair = new Case(t);
  pair.svm(data(0, 10));
  pair.pvm(data(0, 10));
  pair.leaves(data(0, 10));
  for (const far of [0x7fff_ffff, 0x8000_0000, 0x8000_0001, -5000]) {
    pair.pvm(data(far, 10, { base: 1000 }));
    pair.leaves();
    pair.checkpoint();
  }
});
