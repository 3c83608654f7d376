/** What the client is told of the guests' room: never more than both have, never taken back. */
import test from 'ava';
import { encodeBatch } from '../../../../src/proxy/index.js';
import {
  FLOW_V4,
  FLOW_V6,
  tcpFrame,
  timestamps,
  transportChecksumValid,
} from '../../../support/packets.js';
import { ack, Case, CLIENT, data, rst, syn, synAck, synOptions, tcpCase } from './tcp-cases.js';

const [PRIMARY_ISN, SECONDARY_ISN] = [100, 900];
const OURS = { base: PRIMARY_ISN + 1 };
const THEIRS = { base: SECONDARY_ISN + 1 };

/** With window scale 7: a unit is 128 bytes. The handshake itself offers no room. */
function scaledCase(name: string, run: Parameters<typeof tcpCase>[1]): void {
  tcpCase(name, (pair, t) => {
    pair.accept(PRIMARY_ISN, SECONDARY_ISN, { window: 0 });
    run(pair, t);
  });
}

scaledCase('a window is lowered to the edge of the SVM', (pair, t) => {
  pair.svm(ack(1000, 0, { ...THEIRS, window: 100 }));
  pair.pvm(ack(1000, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [100]);
  t.is(pair.comparer.counters.loweredWindows, 1);
});

scaledCase('a window smaller than the SVM has stays as it is', (pair, t) => {
  pair.svm(ack(1000, 0, { ...THEIRS, window: 501 }));
  pair.pvm(ack(1000, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [500]);
  t.is(pair.comparer.counters.loweredWindows, 0);
});

scaledCase('edges are compared, not windows: the SVM has acknowledged more', (pair, t) => {
  // The SVM's edge: 12,800 + 400 units is 500 units behind our acknowledgement.
  pair.svm(ack(12_800, 0, { ...THEIRS, window: 400 }));
  pair.pvm(ack(0, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [500]);
});

scaledCase('a lowered window is rounded down to a unit of the scale', (pair, t) => {
  pair.svm(ack(127, 0, { ...THEIRS, window: 10 }));
  pair.pvm(ack(0, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [10]);
});

scaledCase('the window of a data segment is lowered, too', (pair, t) => {
  pair.svm(data(0, 10, { ...THEIRS, window: 100 }));
  pair.pvm(data(0, 10, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [100]);
});

scaledCase('an edge that the client was told is not taken back', (pair, t) => {
  pair.svm(ack(0, 0, { ...THEIRS, window: 400 }));
  pair.pvm(ack(0, 0, { ...OURS, window: 400 }));
  pair.svm(ack(1280, 0, { ...THEIRS, window: 10 }));
  pair.pvm(ack(1280, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [400, 390]);
});

scaledCase('the PVM itself may take room back', (pair, t) => {
  pair.svm(ack(0, 0, { ...THEIRS, window: 400 }));
  pair.pvm(ack(0, 0, { ...OURS, window: 400 }), ack(0, 0, { ...OURS, window: 0 }));
  t.deepEqual(pair.windows(), [400, 0]);
});

for (const flow of [FLOW_V4, FLOW_V6]) {
  test(`a lowered window has a right checksum, IPv${flow.version}`, (t) => {
    const pair = new Case(t, { flow });
    pair.accept(PRIMARY_ISN, SECONDARY_ISN, { window: 0 });
    pair.svm(data(0, 33, { ...THEIRS, window: 7 }));
    pair.pvm(data(0, 33, { ...OURS, window: 0xffff }));
    const [frame] = pair.left();
    t.true(frame !== undefined && transportChecksumValid(pair.flow, frame));
  });

  test(`the checksum of a packet that the kernel will complete is left alone, IPv${flow.version}`, (t) => {
    const pair = new Case(t, { flow: { ...flow, vnetBytes: 10 } });
    pair.accept(PRIMARY_ISN, SECONDARY_ISN, { window: 0 });
    pair.svm(data(0, 33, { ...THEIRS, window: 7 }));
    const ours = data(0, 33, { ...OURS, window: 300, needsCsum: true });
    pair.pvm(ours);
    // The pseudo-header's sum has no window in it.
    pair.leaves({ ...ours, window: 7 });
  });

  test(`a lowered window is raised by a packet of ours when the SVM has room, IPv${flow.version}`, (t) => {
    const pair = new Case(t, { flow: { ...flow, vlans: [9], vnetBytes: 10 } });
    pair.accept(PRIMARY_ISN, SECONDARY_ISN, { window: 0 });
    pair.svm(data(0, 33, { ...THEIRS, ack: CLIENT + 1280, window: 10 }));
    const ours = { ...OURS, ack: CLIENT + 1280, window: 500, options: timestamps(70, 60) };
    pair.pvm(data(0, 33, ours));
    t.deepEqual(pair.windows(), [10]);
    pair.svm(ack(1280, 33, { ...THEIRS, window: 32 }));
    t.deepEqual(pair.windows(), []);
    pair.svm(ack(1280, 33, { ...THEIRS, window: 33 }));
    const [update, ...others] = pair.left();
    t.deepEqual(others, []);
    t.true(update !== undefined && transportChecksumValid(pair.flow, update));
    // As the PVM would have said it.
    const said = ack(1280, 33, { ...OURS, window: 33, options: timestamps(70, 60) });
    t.deepEqual(update?.subarray(10), pair.frame(said).subarray(10));
    t.is(pair.comparer.counters.windowUpdates, 1);
  });
}

scaledCase('a closed window is opened as soon as the SVM opens its own', (pair, t) => {
  pair.svm(ack(10, 0, { ...THEIRS, window: 0 }));
  pair.pvm(ack(10, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [0]);
  pair.svm(ack(10, 0, { ...THEIRS, window: 3 }));
  t.deepEqual(pair.windows(), [3]);
  // From here on in larger steps, up to what the PVM meant.
  pair.svm(ack(10, 0, { ...THEIRS, window: 4 }), ack(10, 0, { ...THEIRS, window: 600 }));
  t.deepEqual(pair.windows(), [500]);
  pair.svm(ack(10, 0, { ...THEIRS, window: 900 }));
  t.deepEqual(pair.windows(), []);
});

scaledCase('a window of the PVM that was not lowered is not raised', (pair, t) => {
  pair.svm(ack(10, 0, { ...THEIRS, window: 100 }));
  pair.pvm(ack(10, 0, { ...OURS, window: 0 }));
  pair.svm(ack(10, 0, { ...THEIRS, window: 900 }));
  t.deepEqual(pair.windows(), [0]);
});

scaledCase('an older acknowledgement out of order tells nothing new', (pair, t) => {
  pair.svm(ack(1280, 0, { ...THEIRS, window: 10 }));
  pair.pvm(ack(1280, 0, { ...OURS, window: 500 }), ack(0, 0, { ...OURS, window: 15 }));
  t.deepEqual(pair.windows(), [10, 15]);
  pair.svm(ack(1280, 0, { ...THEIRS, window: 100 }));
  const [update] = pair.left();
  t.is(update && pair.numbers(update).ack, CLIENT + 1280);
});

scaledCase('after a reset there is nothing to raise', (pair, t) => {
  pair.svm(ack(10, 0, { ...THEIRS, window: 0 }), rst(0, THEIRS));
  pair.pvm(ack(10, 0, { ...OURS, window: 500 }), rst(0, OURS));
  t.is(pair.left().length, 2);
  pair.svm(ack(10, 0, { ...THEIRS, window: 400 }));
  pair.checkpoint();
  t.deepEqual(pair.left(), []);
});

scaledCase('with the checkpoint the SVM has the room of the PVM', (pair, t) => {
  pair.svm(ack(10, 0, { ...THEIRS, window: 100 }));
  pair.pvm(ack(10, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [100]);
  t.deepEqual(pair.checkpoint(), []);
  t.deepEqual(pair.windows(), [500]);
});

scaledCase('a frame that leaves with the checkpoint tells all of the PVM room', (pair, t) => {
  pair.svm(ack(10, 0, { ...THEIRS, window: 100 }));
  pair.pvm(ack(10, 0, { ...OURS, window: 500 }), ack(20, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [100]);
  pair.leavesAtCheckpoint(ack(20, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), []);
});

scaledCase('the scale is remembered over a checkpoint', (pair, t) => {
  pair.checkpoint();
  pair.svm(ack(1280, 0, { ...OURS, window: 100 }));
  pair.pvm(ack(0, 0, { ...OURS, window: 500 }));
  t.deepEqual(pair.windows(), [110]);
});

tcpCase('without a known scale the smaller window field counts', (pair, t) => {
  pair.svm(ack(12_800, 0, { window: 400 }));
  pair.pvm(ack(0, 0, { window: 500 }));
  t.deepEqual(pair.windows(), [400]);
});

tcpCase('without a known scale a lowered window is raised, too', (pair, t) => {
  pair.svm(ack(10, 0, { window: 0 }));
  pair.pvm(ack(10, 0, { window: 500 }));
  t.deepEqual(pair.windows(), [0]);
  pair.svm(ack(10, 0, { window: 20 }));
  t.deepEqual(pair.windows(), [20]);
  pair.svm(ack(10, 0, { window: 39 }));
  t.deepEqual(pair.windows(), []);
  pair.svm(ack(10, 0, { window: 700 }));
  t.deepEqual(pair.windows(), [500]);
});

tcpCase('windows in SYNs are not scaled', (pair, t) => {
  pair.svm(synAck(1, { window: 29_200 }));
  pair.pvm(synAck(2, { window: 64_240 }));
  t.deepEqual(pair.windows(), [29_200]);
  pair.pvm(ack(0, 0, { base: 3, window: 502 }));
  t.deepEqual(pair.windows(), [29_200 >> 7]);
});

tcpCase('a scale above 14 counts as 14', (pair, t) => {
  pair.accept(1, 2, { window: 0, options: synOptions({ scale: 15 }) });
  pair.svm(ack(1 << 14, 0, { base: 3, window: 0 }));
  pair.pvm(ack(0, 0, { base: 2, window: 5 }));
  t.deepEqual(pair.windows(), [1]);
});

tcpCase('without the option there is no scale', (pair, t) => {
  pair.accept(1, 2, { options: synOptions({ scale: -1 }) });
  pair.svm(ack(70_000, 0, { base: 3, window: 3000 }));
  pair.pvm(ack(70_000, 0, { base: 2, window: 5000 }));
  t.deepEqual(pair.windows(), [3000]);
});

const ANSWERS = {
  'is scaled if the answer has the option': { answer: synOptions(), told: 110 },
  'is not scaled if the answer has no option': { answer: synOptions({ scale: -1 }), told: 500 },
  'is bounded by the smaller window field if the answer was not seen': { told: 100 },
} as const;
for (const [name, { told, ...seen }] of Object.entries(ANSWERS)) {
  for (const flow of [FLOW_V4, { ...FLOW_V6, vlans: [3, 4], vnetBytes: 10 }]) {
    test(`a connection that the guest opens ${name}, IPv${flow.version}`, (t) => {
      const pair = new Case(t, { flow });
      pair.pvm(syn(1));
      pair.svm(syn(2));
      pair.leaves(syn(1));
      if ('answer' in seen) {
        const segment = synAck(CLIENT - 1, { ack: 2, options: seen.answer });
        const other = tcpFrame({ ...flow, remotePort: 7 }, false, segment);
        pair.comparer.inbound(encodeBatch([other, tcpFrame(flow, false, segment)]));
      }
      pair.svm(ack(1280, 0, { base: 3, window: 100 }));
      pair.pvm(ack(0, 0, { base: 2, window: 500 }));
      t.deepEqual(pair.windows(), [told]);
    });
  }
}
