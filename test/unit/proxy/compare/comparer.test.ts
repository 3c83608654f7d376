/** Epochs, time-outs, bounds: what is true of frames of any kind. */
import test from 'ava';
import { Comparer, encodeBatch, formatMismatch } from '../../../../src/proxy/index.js';
import { ComparerPair } from '../../../support/comparer-pair.js';
import { arpFrame, udpFrame } from '../../../support/frames.js';
import { FLOW_V4, tcpFrame } from '../../../support/packets.js';
import { ack, Case, data, fin, rst, streamBytes, synAck } from './tcp-cases.js';

/** One of many flows. */
const numbered = (port: number) => ({ ...FLOW_V4, remotePort: port });

test('nothing leaves before the SVM runs, and then what it has confirmed', (t) => {
  const pair = new Case(t, { stopped: true });
  pair.pvm(data(0, 10), ack(0, 10));
  pair.svm(data(0, 10));
  pair.leaves();
  pair.comparer.start(pair.nowUs);
  pair.leaves(data(0, 10), ack(0, 10));
});

test('frames held before the start leave in the order in which they came', (t) => {
  const pair = new ComparerPair({ stopped: true });
  const frames = [1, 2, 1, 3, 2].map((port, index) => udpFrame(numbered(port), `${index}`));
  pair.pvm(...frames);
  pair.svm(...frames.toReversed().toSorted((a, b) => a.readUInt16BE(36) - b.readUInt16BE(36)));
  t.deepEqual(pair.left(), []);
  // The SVM said the datagrams of each flow in reverse: only flow 3 agrees.
  pair.comparer.start(pair.nowUs);
  t.deepEqual(pair.left(), [frames[3]]);
});

test('nothing leaves between the end of an epoch and the start of the next', (t) => {
  const pair = new Case(t);
  pair.svm(ack(100));
  pair.pvm(ack(100));
  pair.leaves(ack(100));
  t.deepEqual(pair.comparer.closeEpoch(), []);
  // Confirmed by the checkpoint, but that is not committed yet.
  pair.pvm(ack(100), ack(50));
  pair.leaves();
  pair.comparer.start(pair.nowUs);
  pair.leaves(ack(100), ack(50));
});

test('what is held leaves with the checkpoint, in the order in which it came', (t) => {
  const pair = new ComparerPair();
  const frames = [3, 1, 2, 1, 3].map((port, index) => udpFrame(numbered(port), `${index}`));
  pair.pvm(...frames.slice(0, 2), arpFrame());
  pair.pvm(...frames.slice(2));
  pair.svm(frames[2] as Buffer);
  t.deepEqual(pair.left(), [frames[2]]);
  const [a, b, , c, d] = frames;
  t.deepEqual(pair.checkpoint(), [a, b, arpFrame(), c, d]);
  t.deepEqual(pair.checkpoint(), []);
});

test('frames next to each other in a batch leave together', (t) => {
  const released: number[] = [];
  const comparer = new Comparer(
    { vnetBytes: 0, compareTimeoutUs: 1 },
    { release: (_batch, start, end) => released.push(start, end), opened() {}, checkpoint() {} },
  );
  comparer.start(0);
  const frames = [0, 1, 2, 3].map((port) => udpFrame(numbered(port), 'x'));
  const batch = encodeBatch(frames);
  comparer.secondary(encodeBatch([frames[0], frames[1], frames[3]] as Buffer[]), 0);
  comparer.primary(batch, 0);
  const one = batch.length / 4;
  t.deepEqual(released, [0, 2 * one, 3 * one, 4 * one]);
  t.deepEqual(comparer.closeEpoch(), [batch.subarray(2 * one, 3 * one)]);
});

test('a stream goes on over a checkpoint, of which the SVM knows what the PVM said', (t) => {
  const pair = new Case(t);
  pair.svm(data(0, 10));
  pair.pvm(data(0, 10), data(10, 10));
  pair.leaves(data(0, 10));
  pair.leavesAtCheckpoint(data(10, 10));
  pair.pvm(data(20, 10), ack(0, 30));
  pair.leaves();
  pair.svm(data(20, 10));
  pair.leaves(data(20, 10), ack(0, 30));
  pair.agrees();
});

test('the difference of the initial sequence numbers is forgotten at a checkpoint', (t) => {
  const pair = new Case(t);
  pair.accept(100, 9000);
  pair.svm(data(0, 10, { base: 9001 }));
  pair.pvm(data(0, 10, { base: 101 }));
  pair.leaves(data(0, 10, { base: 101 }));
  pair.checkpoint();
  pair.pvm(data(10, 10, { base: 101 }));
  pair.svm(data(10, 10, { base: 9001 }));
  pair.leaves();
  pair.svm(data(10, 10, { base: 101 }));
  pair.leaves(data(10, 10, { base: 101 }));
});

test('a retransmission of an earlier epoch leaves at once if it is the same', (t) => {
  const pair = new Case(t);
  pair.svm(data(0, 10));
  pair.pvm(data(0, 20));
  // Half of it confirmed, all of it sent with the checkpoint.
  pair.leavesAtCheckpoint(data(0, 20));
  pair.pvm(data(0, 20));
  pair.leaves(data(0, 20));
  pair.svm(data(0, 20));
  pair.agrees();
  pair.pvm(data(15, 5, { payload: streamBytes(15, 5, 1) }));
  pair.differs('data');
});

test('of very much that leaves with a checkpoint not all is remembered', (t) => {
  const pair = new Case(t);
  const step = 60_000;
  for (let at = 0; at < 40; at++) pair.pvm(data(at * step, step));
  t.is(pair.checkpoint().length, 40);
  pair.pvm(data(0, step));
  pair.leaves(data(0, step));
  pair.pvm(data(39 * step, step));
  pair.leaves();
  pair.svm(data(39 * step, step));
  pair.leaves(data(39 * step, step));
  pair.agrees();
});

test('the SVM may not contradict what left in an earlier epoch', (t) => {
  const pair = new Case(t);
  pair.pvm(data(0, 20));
  pair.leavesAtCheckpoint(data(0, 20));
  pair.svm(data(5, 5, { payload: streamBytes(5, 5, 1) }));
  pair.differs('contradiction');
});

test('an end of an earlier epoch is the end of both', (t) => {
  const pair = new Case(t);
  pair.pvm(data(0, 10), fin(10));
  pair.leavesAtCheckpoint(data(0, 10), fin(10));
  pair.pvm(fin(10));
  pair.leaves(fin(10));
  pair.pvm(rst(11));
  pair.svm(rst(11));
  pair.leaves(rst(11));
  pair.svm(data(10, 1));
  pair.differs('fin');
});

test('what the SVM said in an earlier epoch confirms nothing', (t) => {
  const pair = new ComparerPair();
  const [segment, datagram] = [tcpFrame(FLOW_V4, true, data(0, 10)), udpFrame(FLOW_V4, 'x')];
  pair.svm(segment, datagram, arpFrame());
  pair.checkpoint();
  pair.pvm(segment, datagram, arpFrame());
  t.deepEqual(pair.left(), []);
  t.is(pair.comparer.counters.aheadFrames, 0);
});

test('a flow that was stopped goes on in the next epoch', (t) => {
  const pair = new Case(t);
  pair.svm(data(0, 10, { payload: streamBytes(0, 10, 1) }));
  pair.pvm(data(0, 10));
  pair.differs('data');
  pair.svm(data(0, 10));
  pair.leaves();
  pair.leavesAtCheckpoint(data(0, 10));
  pair.pvm(data(10, 10));
  pair.svm(data(10, 10));
  pair.leaves(data(10, 10));
});

test('a checkpoint is asked for once for each reason in an epoch, mismatches are told all', (t) => {
  const pair = new ComparerPair();
  const differ = (port: number): void => {
    pair.pvm(udpFrame(numbered(port), 'ours'));
    pair.svm(udpFrame(numbered(port), 'theirs'));
  };
  for (let port = 1; port <= 3; port++) differ(port);
  t.deepEqual(pair.asked, ['divergence']);
  t.deepEqual(
    pair.mismatches.map(({ flow }) => flow),
    [1, 2, 3].map((port) => `udp 10.0.0.2:80 - 10.0.0.9:${port}`),
  );
  t.is(pair.comparer.counters.divergences, 3);
  pair.checkpoint();
  differ(1);
  t.deepEqual(pair.asked, ['divergence', 'divergence']);
});

test('an explanation reads well and outlives the epoch', (t) => {
  const pair = new ComparerPair();
  const batch = encodeBatch([udpFrame(FLOW_V4, 'ours')]);
  pair.comparer.primary(batch, 0);
  pair.svm(udpFrame(FLOW_V4, 'odds'));
  pair.checkpoint();
  batch.fill(0);
  const [found] = pair.explained;
  const text =
    'udp 10.0.0.2:80 - 10.0.0.9:40000: datagram at offset 1 (4 and 4 bytes): ' +
    'primary 6f757273 secondary 6f646473';
  t.is(found && formatMismatch(found), text);
});

test('the time-out counts from the arrival of the oldest held frame', (t) => {
  const pair = new ComparerPair();
  t.is(pair.comparer.deadlineUs(), undefined);
  const began = pair.nowUs;
  pair.pvm(udpFrame(numbered(1), 'x'));
  pair.nowUs += 50_000;
  pair.pvm(udpFrame(numbered(2), 'x'));
  t.is(pair.comparer.deadlineUs(), began + 200_000);
  pair.svm(udpFrame(numbered(1), 'x'));
  t.is(pair.comparer.deadlineUs(), began + 250_000);
  pair.svm(udpFrame(numbered(2), 'x'));
  t.is(pair.comparer.deadlineUs(), undefined);
});

test('the time-out of frames held before the SVM ran counts from its start', (t) => {
  const pair = new ComparerPair({ stopped: true });
  pair.pvm(udpFrame(FLOW_V4, 'x'));
  t.is(pair.comparer.deadlineUs(), undefined);
  pair.comparer.start(pair.nowUs + 500_000);
  t.is(pair.comparer.deadlineUs(), pair.nowUs + 700_000);
  pair.comparer.tick(pair.nowUs + 699_999);
  t.deepEqual(pair.asked, []);
  pair.comparer.tick(pair.nowUs + 700_000);
  t.deepEqual(pair.asked, ['timeout']);
  t.is(pair.comparer.counters.timeouts, 1);
});

test('on a link that takes its time frames wait that much longer', (t) => {
  const pair = new ComparerPair({ stopped: true });
  pair.pvm(udpFrame(FLOW_V4, 'x'));
  pair.comparer.start(pair.nowUs, 600_000);
  t.is(pair.comparer.deadlineUs(), pair.nowUs + 800_000);
  pair.comparer.closeEpoch();
  pair.pvm(udpFrame(FLOW_V4, 'x'));
  pair.comparer.start(pair.nowUs);
  t.is(pair.comparer.deadlineUs(), pair.nowUs + 200_000);
});

test('a late confirmation still lets go of what has timed out', (t) => {
  const pair = new ComparerPair();
  pair.pvm(udpFrame(FLOW_V4, 'x'));
  pair.comparer.tick(pair.nowUs + 200_000);
  pair.svm(udpFrame(FLOW_V4, 'x'));
  t.is(pair.left().length, 1);
});

test('a full table forgets the flow that was not used for longest', (t) => {
  const pair = new ComparerPair({ limits: { flowsMax: 3 } });
  const say = (port: number): void => {
    pair.pvm(tcpFrame(numbered(port), true, data(0, 10)));
    pair.svm(tcpFrame(numbered(port), true, data(0, 10)));
  };
  for (const port of [1, 2, 3, 1, 4]) say(port);
  t.is(pair.left().length, 5);
  t.is(pair.comparer.counters.flows, 3);
  t.deepEqual(pair.asked, []);
  // Flow 1 is known still, flow 2 is not: a retransmission waits for the SVM's.
  pair.pvm(tcpFrame(numbered(1), true, data(0, 10)));
  t.is(pair.left().length, 1);
  pair.pvm(tcpFrame(numbered(2), true, data(0, 10)));
  t.is(pair.left().length, 0);
});

test('a flow that holds a frame is not forgotten: the bound asks for a checkpoint', (t) => {
  const pair = new ComparerPair({ limits: { flowsMax: 2 } });
  const frames = [1, 2, 3, 4].map((port) => udpFrame(numbered(port), 'x'));
  pair.pvm(...frames);
  t.deepEqual(pair.asked, ['bound']);
  t.is(pair.explained[0] && formatMismatch(pair.explained[0]), 'bound: flows');
  // What has a place leaves; what has none is held, also when there is a place again.
  pair.svm(...frames.slice(0, 2));
  t.deepEqual(pair.left(), frames.slice(0, 2));
  // Flow 3 would be out of order, and who knows which others are waiting.
  for (const frame of [udpFrame(numbered(5), 'x'), frames[2] as Buffer]) {
    pair.pvm(frame);
    pair.svm(frame);
    t.deepEqual(pair.left(), []);
  }
  const rest = [...frames.slice(2), udpFrame(numbered(5), 'x'), frames[2] as Buffer];
  t.deepEqual(pair.checkpoint(), rest);
  pair.pvm(...frames.slice(2));
  pair.svm(...frames.slice(2));
  t.deepEqual(pair.left(), frames.slice(2));
});

test('a flow that is needed does not keep others from being forgotten', (t) => {
  const pair = new ComparerPair({ limits: { flowsMax: 2 } });
  const [a, b, c] = [1, 2, 3].map((port) => udpFrame(numbered(port), 'x')) as Buffer[];
  pair.pvm(a as Buffer, b as Buffer);
  pair.svm(b as Buffer);
  pair.pvm(c as Buffer);
  pair.svm(c as Buffer);
  t.deepEqual(pair.left(), [b, c]);
  t.deepEqual(pair.asked, []);
});

test('a flow with two initial sequence numbers is not forgotten in its epoch', (t) => {
  const pair = new ComparerPair({ limits: { flowsMax: 1 } });
  pair.pvm(pair.frame(synAck(1)));
  pair.svm(pair.frame(synAck(2)));
  pair.pvm(udpFrame(numbered(1), 'x'));
  t.deepEqual(pair.asked, ['bound']);
  pair.checkpoint();
  pair.pvm(udpFrame(numbered(1), 'x'));
  t.deepEqual(pair.asked, ['bound']);
  t.is(pair.comparer.counters.flows, 1);
});

test('too much held asks for a checkpoint, and is held on', (t) => {
  for (const limits of [{ heldFramesSoft: 2 }, { heldBytesSoft: 120 }]) {
    const pair = new ComparerPair({ limits });
    const frames = [1, 2, 3, 4].map((port) => udpFrame(numbered(port), 'x'));
    pair.pvm(...frames.slice(0, 2));
    t.deepEqual(pair.asked, []);
    pair.pvm(...frames.slice(2));
    t.deepEqual(pair.asked, ['bound']);
    t.deepEqual(pair.checkpoint(), frames);
  }
});

test('too much said by the SVM alone asks for a checkpoint, and its flow waits for that', (t) => {
  for (const limits of [{ aheadFramesMax: 2 }, { aheadBytesMax: 120 }]) {
    const pair = new ComparerPair({ limits });
    const frames = [1, 2, 3, 4].map((port) => udpFrame(numbered(port), 'x'));
    pair.svm(...frames.slice(0, 3));
    t.deepEqual(pair.asked, ['bound']);
    pair.pvm(...frames.slice(0, 3));
    t.deepEqual(pair.left(), frames.slice(0, 2));
    // There is room again for others.
    pair.svm(frames[3] as Buffer);
    pair.pvm(frames[3] as Buffer);
    t.deepEqual(pair.left(), [frames[3]]);
    t.deepEqual(pair.checkpoint(), [frames[2]]);
  }
});

test('history is bounded: what it has forgotten waits for the SVM to repeat it', (t) => {
  const pair = new Case(t, { limits: { historyBytes: 128 * 1024 } });
  pair.svm(data(0, 1000));
  pair.pvm(data(0, 1000));
  pair.leaves(data(0, 1000));
  pair.pvm(data(0, 1000));
  pair.leaves(data(0, 1000));
  for (let at = 1000; at < 200_000; at += 10_000) {
    pair.svm(data(at, 10_000));
    pair.pvm(data(at, 10_000));
  }
  t.is(pair.left().length, 20);
  // The arena was filled more than once; the newest half of it at least is remembered.
  for (let at = 131_000; at < 201_000; at += 5000) pair.pvm(data(at, 5000));
  t.is(pair.left().length, 14);
  pair.pvm(data(0, 1000));
  pair.leaves();
  pair.svm(data(0, 500), data(500, 500));
  pair.leaves(data(0, 1000));
  pair.agrees();
});

test('history that ends exactly at the end of its arena goes on at the start', (t) => {
  const pair = new Case(t, { limits: { historyBytes: 33 * 4096 } });
  for (let at = 0; at < 35 * 4096; at += 4096) {
    pair.svm(data(at, 4096));
    pair.pvm(data(at, 4096));
  }
  t.is(pair.left().length, 35);
  const repeated = data(32 * 4096, 2 * 4096);
  pair.pvm(repeated);
  pair.leaves(repeated);
});

test('history keeps streams apart that are sent by turns', (t) => {
  const pair = new ComparerPair();
  const say = (port: number, from: number, length: number): Buffer => {
    const segment = tcpFrame(numbered(port), true, data(from + port, length));
    pair.svm(segment);
    pair.pvm(segment);
    return segment;
  };
  for (let from = 0; from < 300; from += 30) for (const port of [1, 2, 3]) say(port, from, 30);
  t.is(pair.left().length, 30);
  t.deepEqual([say(1, 0, 300), say(3, 15, 200)], pair.left());
  t.deepEqual(pair.asked, []);
});

test('counters tell what happened', (t) => {
  const pair = new Case(t);
  pair.accept(1, 2);
  pair.pvm(data(0, 10, { base: 2 }), data(10, 10, { base: 2 }));
  pair.svm(data(0, 10, { base: 3 }), data(20, 10, { base: 3 }));
  const one = 4 + pair.frame(data(0, 10)).length;
  const opening = 4 + pair.frame(synAck(1)).length;
  const { counters } = pair.comparer;
  t.is(counters.primaryFrames, 3);
  t.is(counters.secondaryFrames, 3);
  t.is(counters.releasedFrames, 2);
  t.is(counters.releasedBytes, opening + one);
  t.is(counters.heldFrames, 1);
  t.is(counters.heldBytes, one);
  t.is(counters.aheadFrames, 1);
  t.is(counters.aheadBytes, one);
  t.is(counters.openedFlows, 1);
  t.is(counters.flows, 1);
});
