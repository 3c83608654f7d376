/** Super-frames of a guest with segmentation offload, confirmed piece by piece. */
import test from 'ava';
import { Comparer, encodeBatch } from '../../../../src/proxy/index.js';
import { PACKET_TCP, Packet } from '../../../../src/proxy/packet.js';
import { ACK, FIN, FLOW_V4, FLOW_V6, type Flow, PSH, tcpFrame } from '../../../support/packets.js';

const SEGMENT_BYTES = 100;
const BYTES = Buffer.from(Array.from({ length: 1050 }, (_, at) => (at * 7) & 0xff));
const SEQ = 0xffff_ff00;

/** As QEMU hands it out: type of segmentation and segment size in the virtio_net_hdr. */
function superFrame(flow: Flow, needsCsum: boolean, flags: number): Buffer {
  const frame = tcpFrame(flow, true, { seq: SEQ, ack: 5, flags, payload: BYTES, needsCsum });
  frame[1] = flow.version === 4 ? 1 : 4;
  frame.writeUInt16LE(SEGMENT_BYTES, 4);
  return frame;
}

function piece(flow: Flow, from: number, to: number, flags = ACK): Buffer {
  const payload = BYTES.subarray(from, to);
  return encodeBatch([tcpFrame(flow, true, { seq: (SEQ + from) >>> 0, ack: 5, flags, payload })]);
}

interface Left {
  readonly from: number;
  readonly bytes: Buffer;
  readonly flags: number;
  readonly gso: number;
}

for (const [name, base] of [
  ['IPv4', FLOW_V4],
  ['IPv6', FLOW_V6],
] as const) {
  for (const needsCsum of [true, false]) {
    const flow = { ...base, vlans: [7], vnetBytes: 10 };
    test(`what is confirmed leaves in whole segments, ${name}, checksum ${needsCsum ? 'left to others' : 'complete'}`, (t) => {
      const left: Left[] = [];
      const packet = new Packet();
      const comparer = new Comparer(
        { vnetBytes: 10, compareTimeoutUs: 1000 },
        {
          release(batch, start, end) {
            t.is(batch.readUInt32BE(start), end - start - 4);
            packet.parse(batch, start + 14, end, true);
            t.is(packet.kind, PACKET_TCP);
            const { seq, flags } = packet;
            const payload = Buffer.from(batch.subarray(packet.payloadAt, packet.end));
            const made = tcpFrame(flow, true, { seq, ack: 5, flags, payload, needsCsum });
            t.deepEqual(batch.subarray(start + 14, end), made.subarray(10));
            left.push({
              from: (packet.seq - SEQ) | 0,
              bytes: payload,
              flags,
              gso: batch.readUInt16LE(start + 8),
            });
          },
          opened: () => t.fail(),
          checkpoint: () => t.fail(),
        },
      );
      comparer.start(0);
      comparer.primary(encodeBatch([superFrame(flow, needsCsum, ACK | PSH | FIN)]), 0);
      t.is(left.length, 0);
      comparer.secondary(piece(flow, 0, 50), 0);
      t.is(left.length, 0, 'less than a segment');
      comparer.secondary(piece(flow, 50, 450), 0);
      comparer.secondary(piece(flow, 450, 510), 0);
      comparer.secondary(piece(flow, 510, 1050), 0);
      comparer.secondary(piece(flow, 1050, 1050, ACK | FIN), 0);
      t.deepEqual(
        left.map(({ from, flags, gso }) => ({ from, flags, gso })),
        [
          { from: 0, flags: ACK, gso: SEGMENT_BYTES },
          { from: 400, flags: ACK, gso: 0 },
          { from: 500, flags: ACK, gso: SEGMENT_BYTES },
          { from: 1000, flags: ACK | PSH | FIN, gso: 0 },
        ],
      );
      t.deepEqual(Buffer.concat(left.map(({ bytes }) => bytes)), BYTES);
      t.is(comparer.counters.heldBytes, 0);
      t.is(comparer.counters.splitFrames, 3);
    });
  }
}

test('the rest of a frame that has partly left leaves with the checkpoint', (t) => {
  const flow = { ...FLOW_V4, vnetBytes: 10 };
  const left: Buffer[] = [];
  const comparer = new Comparer(
    { vnetBytes: 10, compareTimeoutUs: 1000 },
    {
      release: (batch, start, end) => left.push(Buffer.from(batch.subarray(start, end))),
      opened: () => t.fail(),
      checkpoint: () => t.fail(),
    },
  );
  comparer.start(0);
  comparer.primary(encodeBatch([superFrame(flow, true, ACK)]), 0);
  comparer.secondary(piece(flow, 0, 730), 0);
  const [rest] = comparer.closeEpoch();
  const packet = new Packet();
  packet.parse(rest as Buffer, 14, (rest as Buffer).length, true);
  t.is(left.length, 1);
  t.is((packet.seq - SEQ) | 0, 700);
  t.deepEqual((rest as Buffer).subarray(packet.payloadAt, packet.end), BYTES.subarray(700));
});

test('nothing of a part leaves before the SVM has acknowledged as much', (t) => {
  const flow = { ...FLOW_V4, vnetBytes: 10 };
  let released = 0;
  const comparer = new Comparer(
    { vnetBytes: 10, compareTimeoutUs: 1000 },
    { release: () => released++, opened: () => t.fail(), checkpoint: () => t.fail() },
  );
  comparer.start(0);
  comparer.primary(encodeBatch([superFrame(flow, true, ACK)]), 0);
  const payload = BYTES.subarray(0, 400);
  const behind = tcpFrame(flow, true, { seq: SEQ, ack: 4, flags: ACK, payload });
  comparer.secondary(encodeBatch([behind]), 0);
  t.is(released, 0);
  comparer.secondary(piece(flow, 400, 401), 0);
  t.is(released, 1);
});
