/** How connections begin: SYN, SYN-ACK, their options, the same ports again. */
import test from 'ava';
import { ComparerPair } from '../../../support/comparer-pair.js';
import { flowKey, tcpFrame } from '../../../support/packets.js';
import {
  ack,
  Case,
  CLIENT,
  data,
  fin,
  rst,
  streamBytes,
  syn,
  synAck,
  synOptions,
  tcpCase,
} from './tcp-cases.js';

tcpCase('a SYN-ACK leaves when the SVM has answered, whatever its number', (pair, t) => {
  pair.pvm(synAck(1000));
  pair.leaves();
  pair.svm(synAck(9_000_000));
  pair.leaves(synAck(1000));
  t.is(pair.opened.length, 1);
  const [opened] = pair.opened;
  t.deepEqual(opened?.key, flowKey(pair.flow));
  t.is(opened?.primaryIsn, 1000);
  t.is(opened?.secondaryIsn, 9_000_000);
  t.is(opened?.timestamps, undefined);
});

tcpCase('timestamps of both SYNs are reported', (pair, t) => {
  pair.svm(synAck(7, { options: synOptions({}, 111) }));
  pair.pvm(synAck(5, { options: synOptions({}, 222) }));
  t.deepEqual(pair.opened[0]?.timestamps, { primary: 222, secondary: 111 });
});

tcpCase('a connection is reported before its SYN leaves', (pair, t) => {
  const order: string[] = [];
  pair.opened.push = () => order.push('opened');
  pair.verdicts.push = (verdict) => order.push(verdict ?? '');
  pair.pvm(synAck(1));
  pair.svm(synAck(2));
  t.deepEqual(order, ['primary hold', 'secondary taken', 'opened', 'primary release']);
});

tcpCase('a guest opens a connection itself', (pair) => {
  pair.pvm(syn(100));
  pair.svm(syn(200));
  pair.leaves(syn(100));
  pair.svm(ack(1, 0, { base: 201 }));
  pair.pvm(ack(1, 0, { base: 101 }));
  pair.leaves(ack(1, 0, { base: 101 }));
  pair.pvm(data(0, 50, { base: 101 }));
  pair.svm(data(0, 50, { base: 201 }));
  pair.leaves(data(0, 50, { base: 101 }));
});

const DIFFERENCES = {
  'maximum segment size': { options: synOptions({ mss: 1400 }) },
  'window scale': { options: synOptions({ scale: 6 }) },
  'no window scale': { options: synOptions({ scale: -1 }) },
  'no SACK': { options: synOptions({ sack: false }) },
  timestamps: { options: synOptions({}, 5) },
  acknowledgement: { ack: CLIENT + 1 },
  kind: { flags: syn(0).flags, ack: 0 },
} as const;
for (const [name, extra] of Object.entries(DIFFERENCES)) {
  tcpCase(`SYN-ACKs that differ are a mismatch: ${name}`, (pair, t) => {
    pair.pvm(synAck(1));
    pair.svm(synAck(1, extra));
    pair.differs('opening');
    t.deepEqual(pair.opened, []);
  });
}

tcpCase('a SYN again leaves at once and is not reported again', (pair, t) => {
  pair.accept(100, 200);
  pair.pvm(synAck(100));
  pair.leaves(synAck(100));
  pair.svm(synAck(200));
  pair.pvm(synAck(100));
  pair.leaves(synAck(100));
  pair.agrees();
  t.deepEqual(pair.opened, []);
});

tcpCase('a SYN again with other options is a mismatch', (pair) => {
  pair.accept(100, 200);
  pair.pvm(synAck(100, { options: synOptions({ mss: 536 }) }));
  pair.differs('opening');
});

tcpCase('what the SVM says early is compared with the same connection of the PVM', (pair) => {
  pair.svm(synAck(200), data(0, 10, { base: 201 }), fin(10, { base: 201 }));
  pair.pvm(synAck(100));
  pair.pvm(data(0, 10, { base: 101 }), fin(10, { base: 101 }));
  pair.leaves(synAck(100), data(0, 10, { base: 101 }), fin(10, { base: 101 }));
});

tcpCase('port reuse: the next connection with the same ports is one of its own', (pair, t) => {
  pair.accept(100, 200);
  pair.pvm(data(0, 10, { base: 101 }), fin(10, { base: 101 }));
  pair.svm(data(0, 10, { base: 201 }), fin(10, { base: 201 }));
  pair.leaves(data(0, 10, { base: 101 }), fin(10, { base: 101 }));
  pair.pvm(synAck(5000));
  pair.leaves();
  pair.svm(synAck(7000));
  pair.leaves(synAck(5000));
  t.is(pair.opened[0]?.secondaryIsn, 7000);
  pair.pvm(data(0, 10, { base: 5001 }));
  pair.svm(data(0, 10, { base: 7001 }));
  pair.leaves(data(0, 10, { base: 5001 }));
  pair.agrees();
});

tcpCase('port reuse: the SVM is two connections ahead', (pair, t) => {
  pair.svm(synAck(200), data(0, 10, { base: 201 }), fin(10, { base: 201 }));
  pair.svm(synAck(300), data(0, 20, { base: 301 }), rst(20, { base: 301 }), synAck(400));
  pair.pvm(synAck(1000), data(0, 10, { base: 1001 }), fin(10, { base: 1001 }));
  pair.leaves(synAck(1000), data(0, 10, { base: 1001 }), fin(10, { base: 1001 }));
  pair.pvm(synAck(2000), data(0, 20, { base: 2001 }), rst(20, { base: 2001 }));
  pair.leaves(synAck(2000), data(0, 20, { base: 2001 }), rst(20, { base: 2001 }));
  pair.pvm(synAck(3000));
  pair.leaves(synAck(3000));
  t.deepEqual(
    pair.opened.map(({ primaryIsn, secondaryIsn }) => [primaryIsn, secondaryIsn]),
    [
      [1000, 200],
      [2000, 300],
      [3000, 400],
    ],
  );
});

tcpCase('port reuse: the old connection is not confirmed by the new one', (pair) => {
  pair.svm(synAck(200), data(0, 10, { base: 201 }));
  pair.pvm(data(0, 10, { base: 201 }));
  pair.leaves();
  pair.agrees();
});

tcpCase('port reuse: an equal number in history does not confirm the new connection', (pair) => {
  pair.accept(100, 200);
  pair.pvm(data(0, 10, { base: 101 }));
  pair.svm(data(0, 10, { base: 201 }));
  pair.leaves(data(0, 10, { base: 101 }));
  pair.pvm(synAck(100 - 1));
  pair.svm(synAck(300));
  pair.leaves(synAck(99));
  // Out of order, so that the gap is behind what has left.
  pair.svm(data(10, 10, { base: 301 }));
  pair.pvm(data(10, 10, { base: 100 }), data(1, 9, { base: 100 }));
  pair.leaves(data(10, 10, { base: 100 }));
  pair.agrees();
});

tcpCase('port reuse: what the SVM said before does not confirm the new connection', (pair) => {
  pair.accept(100, 200);
  pair.svm(data(0, 40, { base: 201 }), rst(40, { base: 201 }));
  pair.pvm(synAck(5000));
  // The new connection's numbers are in the middle of the old one's.
  pair.svm(synAck(210));
  pair.leaves(synAck(5000));
  pair.pvm(data(10, 10, { base: 4991 }));
  pair.leaves();
  pair.agrees();
});

tcpCase(
  'port reuse: a reset of the SVM before does not confirm one of the new connection',
  (pair) => {
    pair.accept(100, 200);
    pair.svm(rst(40, { base: 201 }));
    pair.pvm(synAck(5000));
    pair.svm(synAck(210));
    pair.leaves(synAck(5000));
    pair.pvm(rst(31, { base: 5000 }), rst(40, { base: 201 }));
    pair.leaves();
    pair.agrees();
  },
);

tcpCase('fast open: data in the SYN is part of the stream', (pair) => {
  const ours = syn(100, { payload: streamBytes(0, 20) });
  pair.pvm(ours);
  pair.svm(syn(200, { payload: streamBytes(0, 20) }));
  pair.leaves(ours);
  pair.agrees();
});

tcpCase('fast open: the rest of the data may come later', (pair, t) => {
  const ours = syn(100, { payload: streamBytes(0, 20) });
  pair.pvm(ours);
  pair.svm(syn(200, { payload: streamBytes(0, 5) }));
  pair.leaves();
  pair.svm(data(5, 15, { base: 201 }));
  pair.leaves(ours);
  t.is(pair.opened.length, 1);
});

tcpCase('fast open: other data is a mismatch', (pair) => {
  pair.pvm(syn(100, { payload: streamBytes(0, 20) }));
  pair.svm(syn(200, { payload: streamBytes(0, 20, 1) }));
  pair.differs('data');
});

tcpCase('simultaneous open: the SYN, then the SYN-ACK with the same number', (pair) => {
  pair.pvm(syn(100), synAck(100));
  pair.svm(syn(200));
  pair.leaves(syn(100));
  pair.svm(synAck(200));
  pair.leaves(synAck(100));
  pair.agrees();
});

tcpCase('a refused connection: the SYN, and a reset by the guest that gave up', (pair) => {
  pair.pvm(syn(100), rst(1, { base: 100 }));
  pair.svm(syn(200), rst(1, { base: 200 }));
  pair.leaves(syn(100), rst(1, { base: 100 }));
});

test('a SYN that leaves with the checkpoint is not reported, and both go on from it', (t) => {
  const pair = new Case(t);
  pair.pvm(synAck(100));
  pair.leavesAtCheckpoint(synAck(100));
  t.deepEqual(pair.opened, []);
  // The SVM is the PVM now, and so has its number.
  pair.pvm(synAck(100), data(0, 10, { base: 101 }));
  pair.svm(data(0, 10, { base: 101 }));
  pair.leaves(synAck(100), data(0, 10, { base: 101 }));
  pair.agrees();
});

test('many connections at once keep their own numbers', (t) => {
  const pair = new ComparerPair();
  const flows = Array.from({ length: 200 }, (_, index) => ({ ...pair.flow, remotePort: index }));
  const say = (flow: (typeof flows)[number], isn: number) => [
    tcpFrame(flow, true, synAck(isn)),
    tcpFrame(flow, true, data(0, 30, { base: isn + 1 })),
  ];
  for (const flow of flows) pair.pvm(...say(flow, flow.remotePort * 1000));
  for (const flow of flows.toReversed()) pair.svm(...say(flow, flow.remotePort + 77));
  t.is(pair.left().length, 400);
  t.is(pair.opened.length, 200);
  t.deepEqual(pair.asked, []);
});
