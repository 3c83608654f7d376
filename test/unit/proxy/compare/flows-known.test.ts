/** New connections that the secondary must know before the client hears of them. */
import test from 'ava';
import { ProtocolError } from '../../../../src/lib/index.js';
import { COMPARE_TIMEOUT_US } from '../../../support/comparer-pair.js';
import { udpFrame } from '../../../support/frames.js';
import { FLOW_V4, type Flow, type Segment, tcpFrame } from '../../../support/packets.js';
import { ack, Case, data, fin, rst, syn, synAck } from './tcp-cases.js';

const AWAITING = { awaitsFlowsKnown: true };

function numbered(remotePort: number): Flow {
  return { ...FLOW_V4, remotePort };
}

const OPENINGS: Record<string, (isn: number) => Segment> = {
  accepted: (isn) => synAck(isn),
  'opened by the guest': (isn) => syn(isn),
};

for (const [name, opening] of Object.entries(OPENINGS)) {
  test(`a connection's first frame waits until the secondary knows it: ${name}`, (t) => {
    const pair = new Case(t, AWAITING);
    pair.pvm(opening(100));
    pair.svm(opening(200));
    t.is(pair.opened.length, 1);
    pair.leaves();
    // Said again, it waits in its turn.
    pair.pvm(opening(100));
    pair.svm(opening(200));
    pair.leaves();
    pair.comparer.flowsKnown(1);
    pair.leaves(opening(100), opening(100));
    t.is(pair.opened.length, 1);
    pair.pvm(opening(100));
    pair.leaves(opening(100));
    pair.agrees();
  });
}

test('what follows in the flow waits behind it and leaves in order, whoever is first', (t) => {
  const frames = [synAck(100), data(0, 50, { base: 101 }), data(50, 7, { base: 101 })];
  const pair = new Case(t, AWAITING);
  pair.svm(synAck(200), data(0, 57, { base: 201 }));
  pair.pvm(...frames);
  pair.leaves();
  pair.comparer.flowsKnown(1);
  pair.leaves(...frames);
  pair.pvm(data(57, 5, { base: 101 }));
  pair.svm(data(57, 5, { base: 201 }));
  pair.leaves(data(57, 5, { base: 101 }));
  pair.agrees();
});

test('data in the SYN-ACK waits with it', (t) => {
  const pair = new Case(t, AWAITING);
  const payload = Buffer.from('fast open');
  pair.pvm(synAck(100, { payload }));
  pair.svm(synAck(200, { payload }));
  pair.leaves();
  pair.comparer.flowsKnown(1);
  pair.leaves(synAck(100, { payload }));
});

test('a reset behind a SYN that waits does not pass it', (t) => {
  const pair = new Case(t, AWAITING);
  pair.pvm(syn(100), rst(1, { base: 100 }));
  pair.svm(syn(200), rst(1, { base: 200 }));
  pair.leaves();
  pair.comparer.flowsKnown(1);
  pair.leaves(syn(100), rst(1, { base: 100 }));
});

test('other flows pass a connection that waits', (t) => {
  const pair = new Case(t, AWAITING);
  const established = tcpFrame(numbered(7), true, data(0, 10));
  const datagram = udpFrame(FLOW_V4, 'x');
  pair.pvm(synAck(100), established, datagram);
  pair.svm(synAck(200), established, datagram);
  t.deepEqual(pair.left(), [established, datagram]);
  pair.comparer.flowsKnown(1);
  pair.leaves(synAck(100));
});

test('as many connections leave as are known, in the order in which they were told', (t) => {
  const pair = new Case(t, AWAITING);
  const flows = [4, 2, 3, 1].map(numbered);
  const frames = flows.map((flow) => tcpFrame(flow, true, synAck(flow.remotePort)));
  pair.pvm(...frames.toReversed());
  for (const flow of flows) pair.svm(tcpFrame(flow, true, synAck(flow.remotePort + 9)));
  t.deepEqual(pair.left(), []);
  pair.comparer.flowsKnown(0);
  pair.comparer.flowsKnown(1);
  t.deepEqual(pair.left(), frames.slice(0, 1));
  pair.comparer.flowsKnown(3);
  t.deepEqual(pair.left(), frames.slice(1, 3));
  pair.comparer.flowsKnown(3);
  t.deepEqual(pair.left(), []);
  pair.comparer.flowsKnown(4);
  t.deepEqual(pair.left(), frames.slice(3));
});

test('a connection that is known is not held for its acknowledgement alone', (t) => {
  const pair = new Case(t, AWAITING);
  pair.pvm(synAck(100, { ack: 5 }), ack(3, 0, { base: 101 }));
  pair.svm(synAck(200, { ack: 5 }));
  pair.comparer.flowsKnown(1);
  pair.leaves(synAck(100, { ack: 5 }));
  pair.svm(ack(3, 0, { base: 201 }));
  pair.leaves(ack(3, 0, { base: 101 }));
});

test('at the edge it leaves with the checkpoint, and what is known then is of another epoch', (t) => {
  const pair = new Case(t, AWAITING);
  pair.pvm(synAck(100));
  pair.svm(synAck(200));
  pair.leaves();
  pair.leavesAtCheckpoint(synAck(100));
  t.throws(() => pair.comparer.flowsKnown(1), { instanceOf: ProtocolError });
  // Both are one guest now: nothing is to be known of it.
  pair.pvm(synAck(100), data(0, 10, { base: 101 }));
  pair.svm(data(0, 10, { base: 101 }));
  pair.leaves(synAck(100), data(0, 10, { base: 101 }));
  // They are counted from one again.
  const [other, again] = [numbered(9), tcpFrame(numbered(9), true, synAck(300))];
  pair.pvm(again);
  pair.svm(tcpFrame(other, true, synAck(400)));
  t.deepEqual(pair.left(), []);
  pair.comparer.flowsKnown(1);
  t.deepEqual(pair.left(), [again]);
});

test('a secondary that says nothing is a time-out', (t) => {
  const pair = new Case(t, AWAITING);
  pair.pvm(synAck(100));
  pair.svm(synAck(200));
  t.is(pair.comparer.deadlineUs(), pair.nowUs + COMPARE_TIMEOUT_US);
  pair.comparer.tick(pair.nowUs + COMPARE_TIMEOUT_US);
  t.deepEqual(pair.asked, ['timeout']);
  // It may still come before the edge.
  pair.comparer.flowsKnown(1);
  pair.leaves(synAck(100));
});

test('guests that differ by then keep everything for the checkpoint', (t) => {
  const pair = new Case(t, AWAITING);
  const first = data(0, 10, { base: 101 });
  pair.pvm(synAck(100), first);
  pair.svm(synAck(200), fin(0, { base: 201 }), data(0, 10, { base: 201 }));
  t.deepEqual(pair.asked, ['divergence']);
  pair.comparer.flowsKnown(1);
  pair.leaves();
  pair.leavesAtCheckpoint(synAck(100), first);
});

test('a count that can not be is refused, and changes nothing', (t) => {
  const pair = new Case(t, AWAITING);
  t.throws(() => pair.comparer.flowsKnown(1), { instanceOf: ProtocolError });
  pair.pvm(synAck(100));
  pair.svm(synAck(200));
  t.throws(() => pair.comparer.flowsKnown(2), { instanceOf: ProtocolError });
  pair.leaves();
  pair.comparer.flowsKnown(1);
  pair.leaves(synAck(100));
  t.throws(() => pair.comparer.flowsKnown(0), { instanceOf: ProtocolError });
});
